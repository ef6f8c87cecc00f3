package config

// loggingSettings are those of the log. Lines are written as they come, so whatever
// concerns buffers has nothing to act on.
func loggingSettings() []setting {
	const unbuffered = "each line is written at once, to stderr"
	return []setting{
		{flag: "logging-format", field: "logging.format", upstream: true, usage: `log format, "text" or "json"`,
			at: func(c *configuration) any { return &c.Logging.Format }},
		{flag: "v", field: "logging.verbosity", upstream: true, usage: "log level: 0 to 3 informative, from 4 on everything",
			at: func(c *configuration) any { return &c.Logging.Verbosity }},
		{flag: "vmodule", field: "logging.vmodule", upstream: true, idle: "levels are not set file by file",
			at: func(c *configuration) any { return &c.Logging.VModule }},
		{flag: "log-flush-frequency", field: "logging.flushFrequency", upstream: true, idle: unbuffered,
			at: func(c *configuration) any { return &c.Logging.FlushFrequency }},
		{flag: "log-text-split-stream", field: "logging.options.text.splitStream", upstream: true, idle: unbuffered,
			at: func(c *configuration) any { return &c.Logging.Options.Text.SplitStream }},
		{flag: "log-text-info-buffer-size", field: "logging.options.text.infoBufferSize", upstream: true, idle: unbuffered,
			at: func(c *configuration) any { return &c.Logging.Options.Text.InfoBufferSize }},
		{flag: "log-json-split-stream", field: "logging.options.json.splitStream", upstream: true, idle: unbuffered,
			at: func(c *configuration) any { return &c.Logging.Options.JSON.SplitStream }},
		{flag: "log-json-info-buffer-size", field: "logging.options.json.infoBufferSize", upstream: true, idle: unbuffered,
			at: func(c *configuration) any { return &c.Logging.Options.JSON.InfoBufferSize }},
	}
}

// idleSettings are accepted so that every configuration of upstream's is. The periods
// and masqueradeAll of nftables have flags that concern other modes too, so it is not
// those that are idle.
func idleSettings() []setting {
	const windows = "it concerns Windows"
	const other = "it concerns nftables mode"
	return []setting{
		{field: "nftables.masqueradeBit", idle: other, unless: nftables,
			at: func(c *configuration) any { return &c.NFTables.MasqueradeBit }},
		{field: "nftables.masqueradeAll", idle: other, unless: nftables,
			at: func(c *configuration) any { return &c.NFTables.MasqueradeAll }},
		{field: "nftables.syncPeriod", idle: other, unless: nftables,
			at: func(c *configuration) any { return &c.NFTables.SyncPeriod }},
		{field: "nftables.minSyncPeriod", idle: other, unless: nftables,
			at: func(c *configuration) any { return &c.NFTables.MinSyncPeriod }},
		{flag: "network-name", field: "winkernel.networkName", idle: windows,
			at: func(c *configuration) any { return &c.Winkernel.NetworkName }},
		{flag: "source-vip", field: "winkernel.sourceVip", idle: windows,
			at: func(c *configuration) any { return &c.Winkernel.SourceVip }},
		{flag: "enable-dsr", field: "winkernel.enableDSR", idle: windows,
			at: func(c *configuration) any { return &c.Winkernel.EnableDSR }},
		{flag: "root-hnsendpoint-name", field: "winkernel.rootHnsEndpointName", idle: windows,
			at: func(c *configuration) any { return &c.Winkernel.RootHnsEndpointName }},
		{flag: "forward-healthcheck-vip", field: "winkernel.forwardHealthCheckVip", idle: windows,
			at: func(c *configuration) any { return &c.Winkernel.ForwardHealthCheckVip }},
		{flag: "windows-service", field: "windowsRunAsService", idle: windows,
			at: func(c *configuration) any { return &c.WindowsRunAsService }},
		{field: "portRange", idle: "nothing has used it since upstream's userspace mode went",
			at: func(c *configuration) any { return &c.PortRange }},
	}
}
