package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/node"
)

// localnetMark is an empty chain in nat that says that the sysctl route_localnet is
// our doing. It stands where the sysctl does, in the network namespace, so that
// cleanup finds it whoever runs it and whenever.
const localnetMark = "KUBE-PROXY-LOCALNET"

// openLocalhost lets 127.0.0.1:NodePort work, once the guard against strangers is
// among the rules that stand.
func openLocalhost(log *slog.Logger) {
	changed, err := enableLocalnet()
	switch {
	case err != nil:
		log.Warn("NodePorts do not answer on 127.0.0.1", "error", err)
	case changed:
		log.Info("set net.ipv4.conf.all.route_localnet=1, for NodePorts on 127.0.0.1; --iptables-localhost-nodeports=false avoids it")
	}
}

// enableLocalnet leaves the mark first: a process that ends between the two leaves
// too much to clean up rather than too little.
func enableLocalnet() (changed bool, err error) {
	if on, err := node.RouteLocalnet(); on || err != nil {
		return false, err
	}
	tool, err := ruleset.Find(context.Background(), proxier.IPv4, "")
	if err != nil {
		return false, err
	}
	if err := tool.EnsureChain("nat", localnetMark); err != nil {
		return false, fmt.Errorf("note that route_localnet is ours: %w", err)
	}
	return node.EnableRouteLocalnet()
}

// adoptLocalnet leaves the mark where upstream's iptables mode has run, which sets
// route_localnet and never takes it back. That it was somebody else nobody can tell,
// and left on without the guard it would open 127.0.0.0/8 to strangers.
func adoptLocalnet(ctx context.Context) error {
	if on, err := node.RouteLocalnet(); !on || err != nil {
		return err
	}
	var errs []error
	for tool, err := range ruleset.Tools(ctx, proxier.IPv4, "nat") {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ran, err := tool.HasChain("nat", upstreamCanary)
		if ran {
			err = tool.EnsureChain("nat", localnetMark)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// closeLocalhost undoes openLocalhost if it was us, and says what it undid. The mark
// goes last: whoever ends between the two is known to have more to do.
func closeLocalhost(ctx context.Context) (removed []string, err error) {
	var errs []error
	for tool, err := range ruleset.Tools(ctx, proxier.IPv4, "nat") {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ours, err := tool.HasChain("nat", localnetMark)
		if err != nil || !ours {
			errs = append(errs, err)
			continue
		}
		changed, err := node.DisableRouteLocalnet()
		if changed {
			removed = append(removed, "net.ipv4.conf.all.route_localnet, which is 0 again")
		}
		if err == nil {
			_, err = tool.DeleteChain("nat", localnetMark)
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// keepMark has the mark stand in one flavour alone: a node that changed its flavour has
// it in the other.
func keepMark(ctx context.Context, flavour ruleset.Flavour) error {
	other := map[ruleset.Flavour]ruleset.Flavour{ruleset.NFT: ruleset.Legacy, ruleset.Legacy: ruleset.NFT}[flavour]
	if other == "" || other == ruleset.Legacy && !ruleset.LegacyTables(proxier.IPv4, "nat") {
		return nil
	}
	left, err := ruleset.Find(ctx, proxier.IPv4, other)
	if err != nil {
		return nil // not there: nothing of ours either
	}
	stands, err := left.HasChain("nat", localnetMark)
	if err != nil || !stands {
		return err
	}
	own, err := ruleset.Find(ctx, proxier.IPv4, flavour)
	if err != nil {
		return err
	}
	if err := own.EnsureChain("nat", localnetMark); err != nil {
		return fmt.Errorf("note that route_localnet is ours: %w", err)
	}
	_, err = left.DeleteChain("nat", localnetMark)
	return err
}
