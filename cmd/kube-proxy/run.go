package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"switchyard/cmd/backends"
	"switchyard/proxier"
	"switchyard/proxier/config"
	"switchyard/proxier/node"
	"switchyard/proxier/privilege"
	"switchyard/proxier/watch"
)

// run programs the node's kernel until SIGINT or SIGTERM. What it programmed
// stays: a restart must not disturb a connection.
func run(args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	var flags config.Flags
	flags.Bind(fs)
	if err := parse(fs, args, out); err != nil {
		return err
	}
	switch flags.Verb() {
	case "cleanup":
		return cleanup(nil, out)
	case "version":
		return printVersion(nil, out)
	}
	o, err := flags.Options(backends.Names())
	if err != nil {
		return err
	}
	if o.WriteTo != "" {
		return config.Write(o.WriteTo, o.Effective)
	}
	log := logger(o)
	logLibraries(log)
	for _, warning := range o.Warnings {
		log.Warn(warning)
	}
	if o.Init {
		return initialize(o, log)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p, err := newProxy(ctx, o, log)
	if err != nil {
		return err
	}
	drop(log, append(watch.Files(o.Client.Kubeconfig, o.Client.Master), flags.File(), o.Manifest))
	follow := config.Watch{Flags: &flags, Modes: backends.Names(), Options: o, Changed: p.reconfigured, Invalid: p.misconfigured}
	return p.run(ctx, func(ctx context.Context) { follow.Run(ctx, log) })
}

// drop gives up what was needed for the start alone: modules are loaded, sysctls and
// limits set. files are those that are read later. A process that keeps more than it
// needs is a danger, and not as great a one as no process.
func drop(log *slog.Logger, files []string) {
	kept, err := privilege.Drop(files...)
	if err != nil {
		log.Warn("the process keeps more capabilities than it needs", "keeps", kept, "error", err)
		return
	}
	log.Info("capabilities that are not needed are given up", "keeps", kept)
}

func logger(o config.Options) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if o.Verbosity >= 4 {
		options.Level = slog.LevelDebug
	}
	if o.JSONLogs {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// initialize does what takes more privileges than running does, and ends.
func initialize(o config.Options, log *slog.Logger) error {
	prepare(o, log)
	driver, _ := backends.ByName(o.Mode)
	var errs []error
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		if driver.Prepare == nil || !node.HasFamily(f) {
			continue
		}
		n := node.Describe(f, nil, nil, nodeOptions(o, driver))
		did, err := driver.Prepare(context.Background(), f, &n, o.Backend)
		for _, what := range did {
			log.Info("prepared", "family", f, "what", what)
		}
		if err == nil && n.NodePorts.Localhost && driver.Localnet {
			openLocalhost(log)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("run: --init-only: %w", err)
	}
	log.Info("the node is prepared; --init-only ends here")
	return nil
}

// prepare sets what of the kernel is set once. What it cannot set is somebody
// else's to set, and no reason not to run.
func prepare(o config.Options, log *slog.Logger) {
	changed, errs := node.Tune(node.Tuning{
		MaxPerCore: o.Conntrack.MaxPerCore, Min: o.Conntrack.Min,
		TCPEstablished: o.Conntrack.TCPEstablishedTimeout, TCPCloseWait: o.Conntrack.TCPCloseWaitTimeout,
		UDP: o.Conntrack.UDPTimeout, UDPStream: o.Conntrack.UDPStreamTimeout,
		TCPLiberal: o.Conntrack.TCPBeLiberal, OOMScore: o.OOMScoreAdj,
	})
	for _, what := range changed {
		log.Info("set", "setting", what)
	}
	for _, err := range errs {
		log.Warn("a setting of the kernel stays as it is", "error", err)
	}
}
