package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"

	"switchyard/test/bench/record"
	"switchyard/test/bench/report"
)

// publish prints the tables and writes what was asked for.
func publish(run *record.Run, o options) error {
	if !o.noTables {
		report.Print(os.Stdout, run)
	}
	if o.out == "" {
		return nil
	}
	chapter, err := report.NewChapter(run)
	if err == nil {
		err = os.MkdirAll(o.out, 0o755)
	}
	if err != nil {
		return err
	}
	return errors.Join(
		write(filepath.Join(o.out, "results.json"), run.WriteJSON),
		write(filepath.Join(o.out, "results.csv"), run.WriteCSV),
		write(filepath.Join(o.out, "report.html"), func(w io.Writer) error { return report.HTML(w, chapter) }),
		draw(filepath.Join(o.out, "plots"), chapter.Figures))
}

// runReport makes one report of several runs: the page, a summary, the samples, and the
// plots of the first one that are named.
func runReport(args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("report", pflag.ContinueOnError)
	fs.SetOutput(out)
	dir := fs.StringP("out", "o", "docs/benchmarks", "the folder for report.html, README.md, results-*.csv and plots")
	preface := fs.String("preface", "", "a file that begins README.md")
	plots := fs.StringSlice("plot", nil, "the plots to write beside the page, by name (default: all)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New("report: name the results.json of a run, or of several")
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	var chapters []report.Chapter
	for i, path := range fs.Args() {
		run, err := readRun(path)
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		chapter, err := report.NewChapter(run)
		if err != nil {
			return err
		}
		chapters = append(chapters, chapter)
		if err := write(filepath.Join(*dir, fmt.Sprintf("results-%d.csv", i+1)), run.WriteCSV); err != nil {
			return err
		}
	}
	chosen := slices.DeleteFunc(slices.Clone(chapters[0].Figures), func(f report.Figure) bool {
		return len(*plots) > 0 && !slices.Contains(*plots, f.Name)
	})
	return errors.Join(
		write(filepath.Join(*dir, "report.html"), func(w io.Writer) error { return report.HTML(w, chapters...) }),
		write(filepath.Join(*dir, "README.md"), func(w io.Writer) error { return summarize(w, *preface, chapters) }),
		draw(filepath.Join(*dir, "plots"), chosen))
}

func summarize(w io.Writer, preface string, chapters []report.Chapter) error {
	if preface != "" {
		text, err := os.ReadFile(preface)
		if err != nil {
			return err
		}
		if _, err := w.Write(append(text, '\n')); err != nil {
			return err
		}
	}
	return report.Markdown(w, chapters...)
}

// draw writes figures in both formats.
func draw(dir string, figures []report.Figure) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	for _, figure := range figures {
		for _, format := range []string{"png", "svg"} {
			data, err := figure.Draw(format)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, figure.Name+"."+format), data, 0o644)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func write(path string, fill func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}
