package proxier

// EachChange walks the services of two States, both sorted, and calls do for each
// that is in one of them only (the other is nil) or in both by different pointers;
// all: for those that they share, too. A shared service costs a comparison of
// pointers.
func EachChange(last, next []*Service, all bool, do func(was, is *Service)) {
	i := 0
	for _, is := range next {
		for i < len(last) && last[i] != is && last[i].Compare(is) < 0 {
			do(last[i], nil)
			i++
		}
		if i == len(last) || last[i] != is && last[i].Compare(is) != 0 {
			do(nil, is)
			continue
		}
		if all || last[i] != is {
			do(last[i], is)
		}
		i++
	}
	for ; i < len(last); i++ {
		do(last[i], nil)
	}
}
