package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/test/netlab"
	"switchyard/test/subject"
)

// program is the built binary on a host, with the files that its pod has.
type program struct {
	t    *testing.T
	c    *cluster
	host *netlab.Host
	// config is the ConfigMap, account what the kubelet puts beside: token, CA.
	config, account *volume
	// inside is the command that the program is started by; none: directly.
	inside []string

	cmd   *exec.Cmd
	log   *subject.Log
	ended chan struct{}
}

// volume is a folder that changes as the kubelet changes those of a pod: all files
// at once, by a symbolic link that is replaced.
type volume struct {
	dir     string
	version int
	files   map[string]string
}

func newVolume(t *testing.T) *volume { return &volume{dir: t.TempDir(), files: map[string]string{}} }

// put changes one file.
func (v *volume) put(t *testing.T, name, content string) {
	t.Helper()
	v.files[name] = content
	v.version++
	fresh := fmt.Sprintf("..version-%d", v.version)
	check(t, os.Mkdir(filepath.Join(v.dir, fresh), 0o755))
	for name, content := range v.files {
		check(t, os.WriteFile(filepath.Join(v.dir, fresh, name), []byte(content), 0o644))
	}
	check(t, os.Symlink(fresh, v.dir+"/..new"))
	check(t, os.Rename(v.dir+"/..new", v.dir+"/..data"))
	link := filepath.Join(v.dir, name)
	if _, err := os.Lstat(link); err != nil {
		check(t, os.Symlink("..data/"+name, link))
	}
}

// program prepares the binary on a host by the files of deploy/, in which the
// address of the API server, the pods' range and the paths of this test are put.
func (c *cluster) program(t *testing.T, host *netlab.Host) *program {
	t.Helper()
	p := &program{t: t, c: c, host: host, config: newVolume(t), account: newVolume(t), log: &subject.Log{}}
	p.account.put(t, "ca.crt", text(t, c.dir+"/ca.crt"))
	p.account.put(t, "token", c.token(t, ""))
	kubeconfig := strings.NewReplacer("https://set-me.invalid:6443", "https://"+netip.AddrPortFrom(apiAddr, 6443).String(),
		"/var/run/secrets/kubernetes.io/serviceaccount", p.account.dir).Replace(text(t, root+"/deploy/base/kubeconfig.conf"))
	p.config.put(t, "kubeconfig.conf", kubeconfig)
	p.configure("")
	t.Cleanup(p.clear)
	return p
}

// configure puts a config.conf into the volume: that of deploy/ and more lines.
func (p *program) configure(more string) {
	p.t.Helper()
	base := strings.NewReplacer("/var/lib/kube-proxy", p.config.dir, "10.244.0.0/16", "10.180.0.0/16").
		Replace(text(p.t, root+"/deploy/base/config.conf"))
	p.config.put(p.t, "config.conf", base+more)
}

// start runs the program with kubeadm's command line, and more flags.
func (p *program) start(flags ...string) {
	p.t.Helper()
	p.run(append([]string{"--config=" + p.config.dir + "/config.conf", "--hostname-override=" + p.host.Name()}, flags...)...)
}

// run runs the program with these arguments alone.
func (p *program) run(args ...string) {
	p.t.Helper()
	line := append(append(p.inside[:len(p.inside):len(p.inside)], p.c.binary), args...)
	p.cmd = p.host.Command(context.Background(), line[0], line[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	check(p.t, p.cmd.Start())
	cmd, ended := p.cmd, make(chan struct{})
	p.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ended is asked of its state
	}()
}

// hasEnded reports whether the program does not run.
func (p *program) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// code waits for the program's own end and returns its exit code.
func (p *program) code() int {
	p.t.Helper()
	p.until("the end of the program", p.hasEnded)
	return p.cmd.ProcessState.ExitCode()
}

// signal ends the program and returns its exit code.
func (p *program) signal(s syscall.Signal) int {
	p.t.Helper()
	_ = p.cmd.Process.Signal(s) // fails if it has ended, which code sees
	return p.code()
}

// timeOf is when a line was logged, zero if it does not say.
func timeOf(line string) time.Time {
	first, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
	at, _ := time.Parse(time.RFC3339Nano, first)
	return at
}

// clear ends the program, takes its rules out of the node, and looks whether its
// log holds what none may.
func (p *program) clear() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	for _, never := range []string{"forbidden", "DATA RACE", "panic"} {
		for _, line := range p.log.Lines(never) {
			if !p.c.isStarting(timeOf(line)) {
				p.t.Errorf("its log has %q: %s", never, line)
			}
		}
	}
	if p.t.Failed() {
		p.t.Logf("its log:\n%s", p.log)
	}
	if _, err := p.host.Output(context.Background(), p.c.binary, "cleanup"); err != nil {
		p.t.Error(err)
	}
	if rules := p.rules(); strings.Contains(rules, "KUBE-") {
		p.t.Errorf("cleanup left rules:\n%s", rules)
	}
	check(p.t, p.host.ForgetFlows())
}

func (p *program) until(what string, so func() bool) time.Duration {
	p.t.Helper()
	return until(p.t, what, so)
}

// says waits for a line of the log with all of these words.
func (p *program) says(words ...string) string {
	p.t.Helper()
	var found []string
	p.until(fmt.Sprintf("a line of the log with %q", words), func() bool {
		found = p.log.Lines(words...)
		return len(found) > 0
	})
	return found[0]
}

// inSync waits until the kernel holds all that the API server has.
func (p *program) inSync() {
	p.t.Helper()
	p.says("msg=applied", "family=IPv4")
	p.until("no change is pending", func() bool {
		return p.metric("kubeproxy_sync_proxy_rules_service_changes_pending") == 0 &&
			p.metric("kubeproxy_sync_proxy_rules_endpoint_changes_pending") == 0
	})
}

// rules are the node's iptables rules, IPv4.
func (p *program) rules() string {
	p.t.Helper()
	out, err := p.host.Output(context.Background(), "iptables-save")
	check(p.t, err)
	return out
}

// answer is what an HTTP server said.
type answer struct {
	code   int
	header http.Header
	body   string
}

// get asks a server of the node, from the node itself. The code is 0 if nobody
// answered.
func (p *program) get(url string) answer {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return p.host.Dial(ctx, network, netip.AddrPort{}, netip.MustParseAddrPort(addr))
		},
	}}
	response, err := client.Get(url)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{body: err.Error()}
	}
	return answer{response.StatusCode, response.Header, string(body)}
}

// The servers of the program.
const (
	healthServer  = "http://127.0.0.1:10256"
	metricsServer = "http://127.0.0.1:10249"
)

// health is the body of /healthz and /livez.
type health struct {
	NodeEligible *bool
	Healthy      bool
	Status       map[string]struct{ Healthy bool }
	APIServer    *struct {
		SilentSeconds int
		Stale         bool
	}
}

// health asks at a path of the health check server.
func (p *program) health(path string) (int, health) {
	a := p.get(healthServer + path)
	var h health
	if a.code != 0 {
		check(p.t, json.Unmarshal([]byte(a.body), &h))
	}
	return a.code, h
}

// healthCodes are the codes of /healthz and /livez.
func (p *program) healthCodes() [2]int {
	return [2]int{p.get(healthServer + "/healthz").code, p.get(healthServer + "/livez").code}
}

// metric is the value of a series, -1 if it is not there.
func (p *program) metric(series string) float64 {
	for line := range strings.Lines(p.get(metricsServer + "/metrics").body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			check(p.t, err)
			return v
		}
	}
	return -1
}

// memory is the most that the program has held, in MiB.
func (p *program) memory() int {
	p.t.Helper()
	for line := range strings.Lines(text(p.t, fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			check(p.t, err)
			return kib >> 10
		}
	}
	p.t.Fatal("no VmHWM")
	return 0
}
