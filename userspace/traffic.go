package userspace

import "switchyard/proxier"

var _ proxier.Carrier = (*Backend)(nil)

// Traffic implements proxier.Carrier.
func (b *Backend) Traffic() []proxier.Traffic {
	var all []proxier.Traffic
	for key, c := range b.Stats() {
		all = append(all, proxier.Traffic{
			Service: key.Name, Protocol: key.Protocol,
			Active: c.Active, Connections: c.Connections, Received: c.Received, Sent: c.Sent,
			Retries: c.Retries, Failed: c.Failed, Refused: c.Refused,
		})
	}
	return all
}
