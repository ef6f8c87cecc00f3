package target

import (
	"debug/elf"
	"fmt"
	"os"
	"strings"
)

// Binary is the row of the binary's size. Nothing has to run for it.
const Binary = 14

// mostBinary is the bound, in MiB.
const mostBinary = 45

// JudgeBinary compares the sizes of two programs.
func JudgeBinary(ours, theirs string) Verdict {
	v := Verdict{Row: Binary, What: "binary, static, stripped", Target: fmt.Sprintf("≤ %d MiB", mostBinary), State: "open"}
	mine, static, err := stripped(ours)
	if err != nil {
		v.Ours = err.Error()
		return v
	}
	v.Ours, v.State = fmt.Sprintf("%.1f MiB", mine), "missed"
	if static && mine <= mostBinary {
		v.State = "met"
	}
	if !static {
		v.Ours += ", not static"
	}
	if other, _, err := stripped(theirs); err == nil {
		v.Theirs, v.Ratio = fmt.Sprintf("%.1f MiB", other), fmt.Sprintf("%.3g", mine/other)
	}
	return v
}

// stripped is the size in MiB that a program has without symbols and what debuggers
// need, and whether it runs without a dynamic linker.
func stripped(path string) (size float64, static bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false, err
	}
	f, err := elf.Open(path)
	if err != nil {
		return 0, false, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	bytes, static := info.Size(), true
	for _, s := range f.Sections {
		if strings.HasPrefix(s.Name, ".debug_") || s.Name == ".symtab" || s.Name == ".strtab" {
			bytes -= int64(s.FileSize)
		}
		static = static && s.Name != ".interp"
	}
	return float64(bytes) / (1 << 20), static, nil
}
