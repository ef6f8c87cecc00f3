package bounded_test

import (
	"slices"
	"testing"

	"switchyard/ipvs/bounded"
)

func TestAttributesAreReadAsWritten(t *testing.T) {
	b := bounded.Attribute(nil, 1, 1, 2, 3)
	b = bounded.Text(b, 2, "name")
	b = bounded.Nested(b, 3, func(b []byte) []byte {
		return bounded.Attribute(bounded.Attribute(b, 4|1<<14, 9), 5)
	})
	if len(b)%4 != 0 {
		t.Errorf("%d bytes are not aligned", len(b))
	}
	var types []uint16
	var values [][]byte
	for typ, value := range bounded.Attributes(b) {
		types, values = append(types, typ), append(values, value)
	}
	if !slices.Equal(types, []uint16{1, 2, 3}) ||
		!slices.Equal(values[0], []byte{1, 2, 3}) || string(values[1]) != "name\x00" {
		t.Errorf("%v %v", types, values)
	}
	types = nil
	for typ := range bounded.Attributes(values[2]) {
		types = append(types, typ)
	}
	if !slices.Equal(types, []uint16{4, 5}) {
		t.Errorf("nested %v", types)
	}
}

// Whatever the kernel says, reading ends and stays inside.
func FuzzAttributes(f *testing.F) {
	f.Add([]byte{4, 0, 1, 0, 8, 0, 2, 0, 1, 2, 3, 4})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{255, 255, 1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for _, value := range bounded.Attributes(b) {
			total += 4 + len(value)
		}
		if total > len(b) {
			t.Errorf("%d bytes of %d", total, len(b))
		}
	})
}
