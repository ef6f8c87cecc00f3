package ruleset

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"switchyard/proxier"
)

// Flavour tells which of the kernel's two sets of tables an iptables program
// writes: they do not see each other's rules, and a packet passes both.
type Flavour string

// The two flavours.
const (
	NFT    Flavour = "nft"    // nf_tables, through the compatibility layer nft_compat
	Legacy Flavour = "legacy" // ip_tables and ip6_tables
)

// saveTimeout bounds each program that is run only to look at a node.
const saveTimeout = 5 * time.Second

// kubeletChains are the chains of table mangle by which the kubelet (1.17 and
// newer) marks the flavour it uses, see KEP-3178.
var kubeletChains = [...]string{"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"}

// saves are the outputs of the -save programs, IPv4 and IPv6 together. Each is a
// function because the later ones are mostly not needed and take long on a large
// node: iptables-nft-save needs 9 s for 30,000 chains, more than saveTimeout, and
// then only what it had printed counts.
type saves struct {
	nftMangle func() []byte // table mangle of the nft flavour
	legacy    func() []byte // all tables; naming one would make the kernel create it
	nft       func() []byte // all tables
}

// chooseFlavour decides as the wrapper script in upstream's image does
// (kubernetes-sigs/iptables-wrappers): the flavour that the kubelet uses, or else
// the one that holds more rules and chains, nft if neither holds more. The reason is a
// sentence for the log.
func chooseFlavour(s saves) (Flavour, string) {
	if chain := kubeletChain(s.nftMangle()); chain != "" {
		return NFT, fmt.Sprintf("nft: the kubelet's chain %s is in the nft tables", chain)
	}
	legacy := s.legacy()
	if chain := kubeletChain(legacy); chain != "" {
		return Legacy, fmt.Sprintf("legacy: the kubelet's chain %s is in the legacy tables", chain)
	}
	old := countLines(legacy)
	if old == 0 {
		return NFT, "nft: the legacy tables hold no rules"
	}
	now := countLines(s.nft())
	if old > now {
		return Legacy, fmt.Sprintf("legacy: more rules and chains there (%d) than in the nft tables (%d)", old, now)
	}
	return NFT, fmt.Sprintf("nft: at least as many rules and chains there (%d) as in the legacy tables (%d)", now, old)
}

// kubeletChain returns the kubelet's chain that table mangle of a save declares,
// or "".
func kubeletChain(save []byte) string {
	table := ""
	for line := range bytes.Lines(save) {
		text := strings.TrimSpace(string(line))
		if name, ok := strings.CutPrefix(text, "*"); ok {
			table = name
		}
		if table != "mangle" {
			continue
		}
		for _, chain := range kubeletChains {
			if strings.HasPrefix(text, ":"+chain+" ") {
				return chain
			}
		}
	}
	return ""
}

// countLines counts rules and user-defined chains. Built-in chains do not count:
// a table has them as soon as anybody listed it.
func countLines(save []byte) int {
	n := 0
	for line := range bytes.Lines(save) {
		fields := bytes.Fields(line)
		switch {
		case line[0] == '-':
			n++
		case line[0] == ':' && len(fields) > 1 && string(fields[1]) == "-":
			n++
		}
	}
	return n
}

// binaries are the paths of one flavour's programs for one family.
type binaries struct {
	iptables, save, restore string
}

// prefixOf is the name that a family's programs begin with.
func prefixOf(f proxier.Family) string {
	if f == proxier.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// installed finds a family's programs in PATH. The names with the flavour in them
// are preferred; the plain ones stand for the flavour that --version tells.
func installed(ctx context.Context, f proxier.Family) map[Flavour]binaries {
	found := map[Flavour]binaries{}
	for _, flavour := range []Flavour{NFT, Legacy} {
		if b, ok := lookBinaries(prefixOf(f) + "-" + string(flavour)); ok {
			found[flavour] = b
		}
	}
	if len(found) == 2 {
		return found
	}
	plain, ok := lookBinaries(prefixOf(f))
	if !ok {
		return found
	}
	flavour := versionFlavour(string(outputOf(ctx, plain.iptables, "--version")))
	if _, taken := found[flavour]; !taken {
		found[flavour] = plain
	}
	return found
}

// lookBinaries finds the three programs of one name; all or none.
func lookBinaries(name string) (b binaries, ok bool) {
	for _, want := range []struct {
		path *string
		name string
	}{{&b.iptables, name}, {&b.save, name + "-save"}, {&b.restore, name + "-restore"}} {
		path, err := lookPath(want.name)
		if err != nil {
			return binaries{}, false
		}
		*want.path = path
	}
	return b, true
}

// versionFlavour reads the output of iptables --version. Programs older than 1.8
// do not name a flavour: they are legacy.
func versionFlavour(version string) Flavour {
	if strings.Contains(version, "(nf_tables)") {
		return NFT
	}
	return Legacy
}

// savesOf asks the programs of both families, lazily. A missing or failing program
// counts as empty output: what cannot be read cannot be in use.
func savesOf(ctx context.Context, all []map[Flavour]binaries) saves {
	gather := func(flavour Flavour, args ...string) func() []byte {
		return func() []byte {
			var out []byte
			for _, found := range all {
				if path := found[flavour].save; path != "" {
					out = append(out, outputOf(ctx, path, args...)...)
				}
			}
			return out
		}
	}
	return saves{
		nftMangle: gather(NFT, "-t", "mangle"),
		legacy:    gather(Legacy),
		nft:       gather(NFT),
	}
}

// outputOf runs a program that only reads and returns what it printed, also when
// it failed or ran out of time.
func outputOf(ctx context.Context, path string, args ...string) []byte {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	r := execute(ctx, program{path: path, args: args})
	return r.stdout
}
