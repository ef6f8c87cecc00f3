package main

import (
	"errors"
	"os"
	"path/filepath"

	"switchyard/test/bench/record"
	"switchyard/test/bench/report"
)

// publish prints the tables and writes what was asked for.
func publish(run *record.Run, o options) error {
	out := o.out
	if !o.noTables {
		report.Print(os.Stdout, run)
	}
	if out == "" {
		return nil
	}
	figures, err := report.Plots(run)
	if err == nil {
		err = os.MkdirAll(filepath.Join(out, "plots"), 0o755)
	}
	if err != nil {
		return err
	}
	errs := []error{
		write(filepath.Join(out, "results.json"), func(f *os.File) error { return run.WriteJSON(f) }),
		write(filepath.Join(out, "results.csv"), func(f *os.File) error { return run.WriteCSV(f) }),
		write(filepath.Join(out, "report.html"), func(f *os.File) error { return report.HTML(f, run, figures) }),
	}
	for _, figure := range figures {
		for _, format := range []string{"png", "svg"} {
			data, err := figure.Draw(format)
			if err == nil {
				err = os.WriteFile(filepath.Join(out, "plots", figure.Name+"."+format), data, 0o644)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func write(path string, fill func(*os.File) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}
