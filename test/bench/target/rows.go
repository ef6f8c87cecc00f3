package target

import "switchyard/test/bench/measure"

// The contestants of the rows, by the names that contest.Known gives them.
const (
	nft           = "iptables"
	legacy        = "iptables-legacy"
	ipvs          = "ipvs"
	theirNFT      = "upstream-iptables"
	theirLegacy   = "upstream-iptables-legacy"
	theirNftables = "upstream-nftables"
	theirIPVS     = "upstream-ipvs"
	floor         = "floor"
	floorLegacy   = "floor-legacy"
	floorIPVS     = "floor-ipvs"
	direct        = "direct"
)

// The metrics of the rows.
const (
	cpu      = "CPU"
	cpuEach  = "CPU for each"
	latency  = "latency p50"
	random   = "random p50"
	peak     = "peak RSS"
	right    = "until right"
	writes   = "nft transactions"
	input    = "input at a restart"
	failures = "failed connects"
)

// Size is of a load: Services, and endpoints of each.
type Size struct{ Services, Endpoints int }

var (
	small = Size{1000, 10}
	large = Size{10_000, 5}
)

// Row is one promise.
type Row struct {
	Number int // from 1
	Title  string
	Size   Size // zero: nothing is run
	// OtherKernel: it needs a kernel with IPVS.
	OtherKernel bool
	Checks      []Check
}

// Figure names a metric of a contestant.
type Figure struct{ Contestant, Measure, Metric string }

// Check is one comparison.
type Check struct {
	Ours, Theirs, Floor Figure // Theirs and Floor may be zero: nobody
	// Most is the bound of the ratio to Theirs, MostFloor that to Floor; 0: none.
	Most, MostFloor float64
	// None: the figure itself must be 0.
	None bool
}

// metric is one of a measure.
type metric struct{ measure, metric string }

// against compares it for two contestants and the floor; "": nobody. most bounds the
// ratio of ours to theirs, 0: it is not bounded.
func (m metric) against(ours, theirs, floor string, most float64) Check {
	c := Check{Ours: m.of(ours), Most: most}
	if theirs != "" {
		c.Theirs = m.of(theirs)
	}
	if floor != "" {
		c.Floor = m.of(floor)
	}
	return c
}

// none makes a check of a count that must be 0.
func (m metric) none(ours string) Check { return Check{Ours: m.of(ours), None: true} }

func (m metric) of(contestant string) Figure { return Figure{contestant, m.measure, m.metric} }

// Rows are all promises but that of the binary's size, in their order.
func Rows() []Row {
	return append(programming(), serving()...)
}

// programming are the rows of starts and changes.
func programming() []Row {
	cold, zero := measure.ColdStart, measure.ChangeZero
	atLarge := metric{cold, measure.ToInSync}.against(nft, theirNFT, floor, 0)
	atLarge.MostFloor = 1.5
	churn := metric{measure.Churn, cpuEach}.against(nft, theirNftables, "", 0.5)
	churn.Floor = Figure{floor, zero, cpuEach} // of changes that do not come together
	return []Row{
		{1, "cold start, iptables-nft", small, false, []Check{
			metric{cold, measure.ToInSync}.against(nft, theirNFT, floor, 0.3), metric{cold, cpu}.against(nft, theirNFT, floor, 0.3)}},
		{2, "cold start, iptables-nft", large, false, []Check{atLarge}},
		{3, "cold start, iptables-legacy", large, false, []Check{
			metric{cold, measure.ToInSync}.against(legacy, theirLegacy, floorLegacy, 0.6)}},
		{4, "one change, zero minSyncPeriod, iptables-nft", small, false, []Check{
			metric{zero, latency}.against(nft, theirNFT, floor, 0.2), metric{zero, cpuEach}.against(nft, theirNFT, floor, 0.15)}},
		{5, "the same, against upstream's nftables mode", large, false, []Check{
			metric{zero, latency}.against(nft, theirNftables, floor, 0.3), metric{zero, cpuEach}.against(nft, theirNftables, floor, 0.3)}},
		{6, "the same, iptables-legacy", large, false, []Check{
			metric{zero, latency}.against(legacy, theirLegacy, floorLegacy, 0.4), metric{zero, cpuEach}.against(legacy, theirLegacy, floorLegacy, 0.4)}},
		{7, "one change, default configuration, after quiet", small, false, []Check{
			metric{measure.Change, latency}.against(nft, theirNFT, "", 0.15), metric{measure.Change, latency}.against(nft, theirNftables, "", 0.15)}},
		{8, "1,000 changes at 50/s, CPU", small, false, []Check{churn}},
	}
}

// serving are the rows of connections, restarts, memory and IPVS.
func serving() []Row {
	return []Row{
		{9, "first connect to a random service", large, false, []Check{
			{Ours: Figure{nft, measure.Connect, random}, Theirs: Figure{theirNftables, measure.Connect, random},
				Floor: Figure{direct, measure.Connect, random}, Most: 1.15, MostFloor: 1.4},
			{Ours: Figure{legacy, measure.Connect, random}, Theirs: Figure{theirNftables, measure.Connect, random},
				Floor: Figure{direct, measure.Connect, random}, Most: 1.15, MostFloor: 1.4}}},
		{10, "restart on existing rules", large, false, []Check{
			metric{measure.Restart, cpu}.against(legacy, theirLegacy, floorLegacy, 0.2),
			metric{measure.Restart, cpu}.against(nft, theirNftables, floor, 0.2),
			metric{measure.Restart, writes}.none(nft), metric{measure.Programs, input}.none(legacy),
			metric{measure.Restart, failures}.none(nft), metric{measure.Restart, failures}.none(legacy)}},
		{11, "peak memory of the process tree", large, false, []Check{
			metric{measure.ColdStart, peak}.against(legacy, theirLegacy, "", 0.5),
			metric{measure.ColdStart, peak}.against(nft, theirNftables, "", 0.5)}},
		{12, "IPVS in UML, cold start", small, true, []Check{
			metric{measure.ColdStart, measure.ToInSync}.against(ipvs, theirIPVS, floorIPVS, 0.4)}},
		{13, "IPVS in UML, 1,000 changes at 50/s, until right", small, true, []Check{
			metric{measure.Churn, right}.against(ipvs, theirIPVS, "", 0.03)}},
	}
}

// Needs are the measures that rows take of each contestant, by name.
func Needs(rows []Row) map[string][]string {
	needs := map[string][]string{}
	for _, r := range rows {
		for _, c := range r.Checks {
			for _, f := range []Figure{c.Ours, c.Theirs, c.Floor} {
				if f.Contestant != "" && !contains(needs[f.Contestant], f.Measure) {
					needs[f.Contestant] = append(needs[f.Contestant], f.Measure)
				}
			}
		}
	}
	return needs
}
