package cluster

import (
	"iter"
	"slices"
)

// List is a sorted list of Services. Immutable: a list that differs from another
// in a few Services shares the rest with it, page by page, so that neither
// copying nor comparing them costs what the whole is long.
type List struct {
	pages [][]*Service // none empty, none longer than fullPage
	n     int
}

// fullPage is the longest page. A page is copied for each change in it, and the
// list of pages too.
const fullPage = 128

// ListOf makes a List of Services that are sorted by name.
func ListOf(sorted []*Service) List {
	l := List{n: len(sorted)}
	for len(sorted) > 0 {
		n := min(len(sorted), fullPage/2) // room to grow
		l.pages = append(l.pages, sorted[:n:n])
		sorted = sorted[n:]
	}
	return l
}

// Len is how many Services the list has.
func (l List) Len() int { return l.n }

// Pages is the list in pieces that must not be changed. Two lists share a piece if
// it begins at the same address.
func (l List) Pages() [][]*Service { return l.pages }

// All calls yield for every Service and its place in the list.
func (l List) All() iter.Seq2[int, *Service] {
	return func(yield func(int, *Service) bool) {
		i := 0
		for _, page := range l.pages {
			for _, svc := range page {
				if !yield(i, svc) {
					return
				}
				i++
			}
		}
	}
}

// Slice is the list in one piece, of its own.
func (l List) Slice() []*Service { return slices.Concat(l.pages...) }

// Same reports whether two lists are one and the same.
func (l List) Same(o List) bool {
	return len(l.pages) == len(o.pages) && (len(l.pages) == 0 || &l.pages[0] == &o.pages[0])
}

// Find returns the place of a Service, or where it would be.
func (l List) Find(name Name) (int, bool) {
	p, at, found := l.locate(name)
	for _, page := range l.pages[:p] {
		at += len(page)
	}
	return at, found
}

// locate returns the page that a name belongs on, and the place there.
func (l List) locate(name Name) (page, at int, found bool) {
	page, _ = slices.BinarySearchFunc(l.pages, name, func(p []*Service, n Name) int {
		return p[len(p)-1].Name.Compare(n)
	})
	if page == len(l.pages) {
		if page == 0 {
			return 0, 0, false
		}
		page-- // behind the last one
	}
	at, found = slices.BinarySearchFunc(l.pages[page], name, func(s *Service, n Name) int { return s.Name.Compare(n) })
	return page, at, found
}

// with is the list in which the Services of the changed entries stand as they are
// now.
func (l List) with(changed []*entry) List {
	if len(changed) > fullPage {
		return ListOf(splice(l.Slice(), changed))
	}
	next := List{pages: slices.Clone(l.pages), n: l.n}
	for _, e := range changed {
		next.set(e.name, e.built)
	}
	if next.n == 0 {
		return List{}
	}
	return next
}

// set puts a Service in, in place of one of its name, or takes that one out (nil).
// The list of pages is the receiver's own.
func (l *List) set(name Name, svc *Service) {
	if len(l.pages) == 0 {
		if svc != nil {
			l.pages, l.n = [][]*Service{{svc}}, 1
		}
		return
	}
	p, at, found := l.locate(name)
	page := l.pages[p]
	switch {
	case found && svc != nil:
		page = slices.Clone(page)
		page[at] = svc
	case found:
		page = slices.Concat(page[:at], page[at+1:])
		l.n--
	case svc != nil:
		page = slices.Concat(page[:at], []*Service{svc}, page[at:])
		l.n++
	}
	switch half := len(page) / 2; {
	case len(page) == 0:
		l.pages = slices.Delete(l.pages, p, p+1)
	case len(page) > fullPage:
		l.pages[p] = page[:half:half]
		l.pages = slices.Insert(l.pages, p+1, page[half:])
	default:
		l.pages[p] = page
	}
}
