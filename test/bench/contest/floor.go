package contest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"switchyard/iptables"
	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/test/bench/load"
	"switchyard/test/bench/street"
)

// floor feeds the rules that our iptables mode makes to iptables-restore and does
// nothing else: no API, no decisions, no reading back. They are rendered before the
// clock starts. What it takes is what the kernel and its tool need.
type floor struct {
	stage   Stage
	tables  string
	account *account
	done    chan struct{}
	err     error          // valid once done is closed
	pods    [][]netip.Addr // that each service was last programmed with
}

// ownChains are the text of a service's own chains, by chain.
type ownChains map[string]string

// nftCommit is how many rules of one COMMIT the nft tool takes in best: the time
// grows with the square. The legacy tool swaps the table at each COMMIT.
const nftCommit = 2000

var floorNode = proxier.Node{
	Name: load.NodeName, PodRanges: []netip.Prefix{load.PodCIDR()},
	NodePorts: proxier.NodePorts{Any: true, Localhost: true},
	Local:     []netip.Addr{street.NodeAddr},
}

func openFloor(c Contestant, s Stage) (*floor, error) {
	if err := prepareTables(c.Tables, s); err != nil {
		return nil, fmt.Errorf("contestant %s: %w", c.Name, err)
	}
	a, err := newAccount(c.Name)
	if err != nil {
		return nil, err
	}
	return &floor{stage: s, tables: c.Tables, account: a}, nil
}

// Start restores everything. Once it stands a second start only reads it back, which
// is what anybody has to do who means to leave it alone.
func (f *floor) Start(context.Context, Settings) error {
	if f.done != nil {
		f.account.begin()
		return f.readBack()
	}
	perCommit := 0
	if f.tables == NFT {
		perCommit = nftCommit
	}
	store := cluster.NewStore(load.NodeName)
	f.pods = make([][]netip.Addr, f.stage.Load.Services)
	for i := range f.pods {
		f.pods[i] = f.stage.Load.Pods(i)
		f.add(store, i)
	}
	text, err := render(store, perCommit)
	if err != nil {
		return err
	}
	// The ways into the rules come in the last COMMIT, which is that of nat.
	last := bytes.LastIndex(text, []byte("COMMIT\n"))
	text = append(text[:last:last], "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\nCOMMIT\n"...)
	f.done = make(chan struct{})
	f.account.begin()
	cmd, err := f.begin(text)
	if err != nil {
		return err
	}
	go func() {
		defer close(f.done)
		f.err = finish(cmd)
	}()
	return nil
}

func (f *floor) add(store *cluster.Store, i int) {
	slice := f.stage.Load.Slice(i)
	for j := range slice.Endpoints {
		slice.Endpoints[j].Addresses = []string{f.pods[i][j].String()}
	}
	store.SetService(load.Service(i))
	store.SetSlice(slice)
}

func render(store *cluster.Store, perCommit int) ([]byte, error) {
	state := compile.New(proxier.IPv4, compile.Options{}).Compile(store.Snapshot(), floorNode)
	return iptables.RenderIn(state, proxier.Settings{MasqueradeBit: 14}, perCommit)
}

func (f *floor) readBack() error {
	cmd := f.stage.command("iptables-" + f.tables + "-save")
	f.account.admit(cmd, syscall.SysProcAttr{})
	cmd.Stderr = &bytes.Buffer{}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start iptables-save: %w", err)
	}
	return finish(cmd)
}

// Changed writes the chains of service i that are not as they stand.
func (f *floor) Changed(_ context.Context, i int) (time.Time, error) {
	was, err := f.chains(i)
	if err != nil {
		return time.Time{}, err
	}
	f.pods[i] = f.stage.Load.Pods(i)
	now, err := f.chains(i)
	if err != nil {
		return time.Time{}, err
	}
	input := difference(was, now)
	begin := time.Now()
	cmd, err := f.begin([]byte(input))
	if err != nil {
		return begin, err
	}
	return begin, finish(cmd)
}

// chains are those of service i with the pods that it was last programmed with.
func (f *floor) chains(i int) (ownChains, error) {
	store := cluster.NewStore(load.NodeName)
	f.add(store, i)
	text, err := render(store, 0)
	return chainsOf(string(text)), err
}

// chainsOf picks a service's own chains out of a text for iptables-restore.
func chainsOf(text string) ownChains {
	chains := ownChains{}
	for line := range strings.Lines(text) {
		name, rule := "", ""
		if after, ok := strings.CutPrefix(line, "-A "); ok {
			name, _, _ = strings.Cut(after, " ")
			rule = line
		}
		if strings.HasPrefix(name, "KUBE-SVC-") || strings.HasPrefix(name, "KUBE-SEP-") {
			chains[name] += rule
		}
	}
	return chains
}

// difference is the input that turns one version of a service's chains into
// another.
func difference(was, now ownChains) string {
	var declare, rules, remove strings.Builder
	for name, text := range now {
		if was[name] != text {
			fmt.Fprintf(&declare, ":%s - [0:0]\n", name)
			rules.WriteString(text)
		}
	}
	for name := range was {
		if _, ok := now[name]; !ok {
			fmt.Fprintf(&declare, ":%s - [0:0]\n", name)
			fmt.Fprintf(&remove, "-X %s\n", name)
		}
	}
	return "*nat\n" + declare.String() + rules.String() + remove.String() + "COMMIT\n"
}

func (f *floor) begin(input []byte) (*exec.Cmd, error) {
	cmd := f.stage.command("iptables-"+f.tables+"-restore", "--noflush", "-w", "5")
	f.account.admit(cmd, syscall.SysProcAttr{})
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &bytes.Buffer{}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start iptables-restore: %w", err)
	}
	return cmd, nil
}

func finish(cmd *exec.Cmd) error {
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, cmd.Stderr)
	}
	return nil
}

// Ended is nil: there is nothing that should keep running.
func (f *floor) Ended() error {
	select {
	case <-f.done:
		return f.err
	default:
		return nil
	}
}

// Stop waits until the restore is done; it leaves nothing behind that runs.
func (f *floor) Stop(syscall.Signal) error {
	if f.done != nil {
		<-f.done
		return f.err
	}
	return nil
}

// Tally is empty: that a change is one restore is what makes it the floor.
func (f *floor) Tally() (t Tally, err error) { return t, nil }

// Usage is that of all restores.
func (f *floor) Usage() Usage { return f.account.usage() }

// Close gives up the account.
func (f *floor) Close() error { return errors.Join(f.Stop(0), f.account.close()) }
