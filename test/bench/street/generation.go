package street

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"switchyard/test/netlab"
)

// nfgenmsg is the header of netfilter's messages: any family, version 0.
type nfgenmsg struct{}

func (nfgenmsg) Len() int { return 4 }

func (nfgenmsg) Serialize() []byte { return make([]byte, 4) }

// Generation counts the transactions that have changed the nft tables of a host:
// whoever writes, and however. The legacy tables are not part of it.
func Generation(h *netlab.Host) (generation uint32, err error) {
	err = h.Do(func() error {
		request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
		request.AddData(nfgenmsg{})
		answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
		if err != nil {
			return fmt.Errorf("ask for the generation of the nft tables: %w", err)
		}
		for _, answer := range answers {
			attrs, err := nl.ParseRouteAttr(answer[4:])
			if err != nil {
				return err
			}
			generation = idOf(attrs)
		}
		return nil
	})
	return generation, err
}

func idOf(attrs []syscall.NetlinkRouteAttr) uint32 {
	for _, a := range attrs {
		if a.Attr.Type&nl.NLA_TYPE_MASK == unix.NFTA_GEN_ID && len(a.Value) == 4 {
			return binary.BigEndian.Uint32(a.Value)
		}
	}
	return 0
}
