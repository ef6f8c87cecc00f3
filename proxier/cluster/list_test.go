package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestListIsAsASortedSlice changes a list at random and holds it against a plain
// map; lists that were handed out do not change, and share what nobody touched.
func TestListIsAsASortedSlice(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	want := map[Name]*Service{}
	var l List
	for range 400 {
		before, pages := l.Slice(), l
		changed := map[Name]*entry{}
		for range 1 + rng.IntN(5)*rng.IntN(60) {
			name := Name{"ns", fmt.Sprintf("s%04d", rng.IntN(900))}
			e := &entry{name: name}
			if rng.IntN(3) > 0 {
				e.built = &Service{Name: name}
			}
			changed[name] = e
		}
		var entries []*entry
		for name, e := range changed {
			entries = append(entries, e)
			if delete(want, name); e.built != nil {
				want[name] = e.built
			}
		}
		slices.SortFunc(entries, func(a, b *entry) int { return a.name.Compare(b.name) })
		l = l.with(entries)
		checkList(t, l, want)
		if !slices.Equal(pages.Slice(), before) {
			t.Fatal("a list that was handed out changed")
		}
	}
}

func checkList(t *testing.T, l List, want map[Name]*Service) {
	t.Helper()
	if l.Len() != len(want) || !slices.IsSortedFunc(l.Slice(), func(a, b *Service) int { return a.Name.Compare(b.Name) }) {
		t.Fatalf("%d Services, want %d, sorted", l.Len(), len(want))
	}
	for i, svc := range l.All() {
		if want[svc.Name] != svc {
			t.Fatalf("%s is not the one that was put in", svc.Name)
		}
		if at, found := l.Find(svc.Name); !found || at != i {
			t.Fatalf("Find(%s): %d, %t; want %d", svc.Name, at, found, i)
		}
	}
	for _, page := range l.Pages() {
		if len(page) == 0 || len(page) > fullPage {
			t.Fatalf("a page of %d", len(page))
		}
	}
	if _, found := l.Find(Name{"ns", "zzz"}); found {
		t.Fatal("found what is not there")
	}
}

// TestListSharesPages holds what a change costs.
func TestListSharesPages(t *testing.T) {
	var all []*Service
	for i := range 10_000 {
		all = append(all, &Service{Name: Name{"ns", fmt.Sprintf("s%05d", i)}})
	}
	l := ListOf(all)
	name := all[5000].Name
	next := l.with([]*entry{{name: name, built: &Service{Name: name}}})
	other := 0
	for i, page := range next.Pages() {
		if &page[0] != &l.Pages()[i][0] {
			other++
		}
	}
	if other != 1 {
		t.Errorf("one Service changed: %d pages are others", other)
	}
}
