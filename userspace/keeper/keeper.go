package keeper

import (
	"net"
	"sync"
	"time"
)

// Patience is how long a keeper waits for a proxy before it ends.
const Patience = 30 * time.Second

// keeper is what the process knows.
type keeper struct {
	door *net.UnixListener

	mu      sync.Mutex
	sets    map[byte][]int         // sockets
	serving map[byte]*net.UnixConn // who accepts from them
	proxies map[*net.UnixConn]struct{}
	lonely  *time.Timer // runs while no proxy is there
}

// Serve keeps sockets until nobody has come for patience, or a proxy says so; all are
// closed then. The door is closed too.
func Serve(door *net.UnixListener, patience time.Duration) {
	k := &keeper{door: door, sets: map[byte][]int{}, serving: map[byte]*net.UnixConn{}, proxies: map[*net.UnixConn]struct{}{}}
	k.lonely = time.AfterFunc(patience, k.end)
	var wait sync.WaitGroup
	for {
		c, err := door.AcceptUnix()
		if err != nil {
			break
		}
		if sameUser(c) != nil {
			_ = c.Close()
			continue
		}
		k.welcome(c)
		wait.Go(func() {
			k.listen(c)
			k.farewell(c, patience)
		})
	}
	_ = door.Close() // here, so that its name is free when Serve returns
	k.close()
	wait.Wait()
}

// end has Serve end: it accepts no more.
func (k *keeper) end() { _ = k.door.SetDeadline(time.Unix(1, 0)) }

func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.proxies {
		_ = c.Close()
	}
	for set, files := range k.sets {
		(&message{files: files}).drop()
		delete(k.sets, set)
	}
}

func (k *keeper) welcome(c *net.UnixConn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lonely.Stop()
	k.proxies[c] = struct{}{}
}

// farewell: a proxy has ended, or is dead. With the last one the wait begins.
func (k *keeper) farewell(c *net.UnixConn, patience time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = c.Close()
	delete(k.proxies, c)
	for set, who := range k.serving {
		if who == c {
			delete(k.serving, set)
		}
	}
	if len(k.proxies) == 0 {
		k.lonely.Reset(patience)
	}
}

// listen does what a proxy says until it ends.
func (k *keeper) listen(c *net.UnixConn) {
	for {
		m, err := receive(c)
		if err != nil || !k.obey(c, m) {
			return
		}
	}
}

func (k *keeper) obey(c *net.UnixConn, m message) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.word != keep {
		m.drop()
	}
	switch m.word {
	case ask:
		return send(c, message{have, m.set, k.sets[m.set]}) == nil
	case keep:
		(&message{files: k.sets[m.set]}).drop()
		k.sets[m.set] = m.files
	case serve:
		before := k.serving[m.set]
		k.serving[m.set] = c
		if before != nil && before != c {
			_ = send(before, message{word: retire, set: m.set}) // it may be dead
		}
	case quit:
		k.end()
	}
	return true
}
