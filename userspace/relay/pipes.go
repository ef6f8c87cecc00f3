package relay

// pipes are kept for later, a few; their owner alone uses them.
type pipes []*pipe

const maxSpare = 32 // an empty pipe takes 16 KiB

// get is nil where files or memory have run out.
func (p *pipes) get() *pipe {
	if n := len(*p); n > 0 {
		one := (*p)[n-1]
		*p = (*p)[:n-1]
		return one
	}
	one, err := newPipe()
	if err != nil {
		return nil
	}
	return one
}

// put takes back a pipe, which must be empty.
func (p *pipes) put(one *pipe) {
	if len(*p) < maxSpare {
		*p = append(*p, one)
	} else {
		one.close()
	}
}

func (p *pipes) close() {
	for _, one := range *p {
		one.close()
	}
	*p = nil
}
