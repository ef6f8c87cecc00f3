package ruleset

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

func stampOf(t testing.TB, tool *Tool) Stamp {
	t.Helper()
	s, err := tool.Stamp()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Each step is done by another process, in order; shows says whether the stamp tells.
func TestStampTellsWrites(t *testing.T) {
	always := map[Flavour]bool{NFT: true, Legacy: true}
	never := map[Flavour]bool{}
	for _, steps := range [][]struct {
		name  string
		input string
		shows map[Flavour]bool
	}{{
		{"new chain", "*nat\n:MINE - [0:0]\nCOMMIT\n", always},
		{"rule added", "*nat\n-A MINE -d HOST -j ACCEPT\nCOMMIT\n", always},
		{"empty section", "*nat\nCOMMIT\n", never},
		{"refused input", "*nat\n-A NO-SUCH-CHAIN -j ACCEPT\nCOMMIT\n", never},
		{"rule replaced by one of another size", "*nat\n-R MINE 1 -d HOST -m comment --comment x -j ACCEPT\nCOMMIT\n", always},
		{"rule replaced by one of equal size", "*nat\n-R MINE 1 -d HOST -m comment --comment y -j ACCEPT\nCOMMIT\n", map[Flavour]bool{NFT: true}},
		{"jump from a built-in chain", "*nat\n-A OUTPUT -j MINE\nCOMMIT\n", always},
		{"chain flushed", "*nat\n-F MINE\nCOMMIT\n", always},
		{"another table", "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n", always},
		{"table flushed", "*filter\n-F\nCOMMIT\n", always},
	}} {
		eachTool(t, func(t *testing.T, tool *Tool) {
			host := map[proxier.Family]string{proxier.IPv4: "10.0.0.1", proxier.IPv6: "fd00::1"}[tool.Family()]
			for _, step := range steps {
				before := stampOf(t, tool)
				err := tool.Restore(t.Context(), []byte(strings.ReplaceAll(step.input, "HOST", host)))
				if (err != nil) != (step.name == "refused input") {
					t.Fatal(err)
				}
				after := stampOf(t, tool)
				if (after != before) != step.shows[tool.Flavour()] {
					t.Errorf("%s: %v then %v", step.name, before, after)
				}
			}
		})
	}
}

func TestReadingTheStampChangesNothing(t *testing.T) {
	eachTool(t, func(t *testing.T, tool *Tool) {
		first := stampOf(t, tool)
		for range 10 {
			if s := stampOf(t, tool); s != first {
				t.Fatalf("%v then %v", first, s)
			}
		}
		if tool.Flavour() == Legacy && (first.tables[0] == xtTable{} || first.tables[2] != xtTable{}) {
			t.Errorf("want table nat, which Find listed, and no table mangle, which nobody asked for: %v", first)
		}
		execs := tool.Execs()
		if _, err := tool.Save(t.Context(), "nat"); err != nil {
			t.Fatal(err)
		}
		if s := stampOf(t, tool); s != first || tool.Execs() != execs+1 {
			t.Errorf("after a save: %v then %v; %d programs", first, s, tool.Execs()-execs)
		}
	})
}

func TestParseGeneration(t *testing.T) {
	answer := func(kind uint16, body ...byte) []byte {
		msg := make([]byte, unix.SizeofNlMsghdr, 64)
		binary.NativeEndian.PutUint16(msg[4:], kind)
		return append(msg, body...)
	}
	errno := binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EPERM)+1)
	attr := binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16([]byte{0, 0, 0, 0}, 8), unix.NFTA_GEN_ID)
	for _, c := range []struct {
		name string
		msg  []byte
		want uint32
		says string
	}{
		{"good", answer(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN, append(attr, 0, 0, 1, 2)...), 258, ""},
		{"empty", nil, 0, "too short"},
		{"no permission", answer(unix.NLMSG_ERROR, errno...), 0, "NET_ADMIN"},
		{"no attributes", answer(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN, 0, 0, 0, 0), 0, "no generation"},
		{"attribute of length 0", answer(0, 0, 0, 0, 0, 0, 0, 0, 0), 0, "no generation"},
		{"attribute cut short", answer(0, attr...), 0, "no generation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseGeneration(c.msg)
			if got != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
}

func BenchmarkStamp(b *testing.B) {
	for _, flavour := range []Flavour{NFT, Legacy} {
		b.Run(string(flavour), func(b *testing.B) {
			tool := newTool(b, proxier.IPv4, flavour)
			for _, table := range stampTables {
				if _, err := tool.Save(b.Context(), table); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tool.Stamp(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
