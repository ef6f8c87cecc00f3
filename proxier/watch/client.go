package watch

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
)

// ClientOptions are those of KubeProxyConfiguration's clientConnection. Zero
// values stand for upstream's defaults.
type ClientOptions struct {
	QPS       float32 // requests a second; default 5; negative: no limit
	Burst     int     // default 10
	UserAgent string  // default: client-go's
	// ContentType and AcceptContentTypes are MIME types; default: protobuf, and
	// JSON accepted too.
	ContentType, AcceptContentTypes string
}

const (
	defaultQPS   = 5
	defaultBurst = 10
)

// NewClient returns a client of the API server that a kubeconfig file names, at
// another address if master is not empty. With both empty it is that of the
// cluster that the process runs in as a pod. The file is read, the server is not
// asked. Tokens in files are followed as they rotate.
func NewClient(kubeconfig, master string, o ClientOptions) (kubernetes.Interface, error) {
	config, err := loadConfig(kubeconfig, master)
	if err != nil {
		return nil, err
	}
	followToken(config)
	p := &pulse{}
	config.Dial = p.dial
	config.QPS, config.Burst, config.UserAgent = o.QPS, o.Burst, o.UserAgent
	if config.QPS == 0 {
		config.QPS = defaultQPS
	}
	if config.Burst == 0 {
		config.Burst = defaultBurst
	}
	config.ContentType, config.AcceptContentTypes = o.ContentType, o.AcceptContentTypes
	if config.ContentType == "" {
		config.ContentType = runtime.ContentTypeProtobuf
	}
	if config.AcceptContentTypes == "" {
		config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client of the API server: %w", err)
	}
	return &pulsed{Interface: client, pulse: p}, nil
}

// followToken has a token's file read again once the server refuses the token, and
// not only each minute, as client-go does by itself.
func followToken(config *rest.Config) {
	if config.BearerTokenFile == "" {
		return
	}
	source := transport.NewCachedFileTokenSource(config.BearerTokenFile)
	config.Wrap(transport.ResettableTokenSourceWrapTransport(source))
	config.BearerToken, config.BearerTokenFile = "", ""
}

func loadConfig(kubeconfig, master string) (*rest.Config, error) {
	if kubeconfig == "" && master == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the API server as a pod does, since neither kubeconfig nor master is given: %w", err)
		}
		return config, nil
	}
	overrides := &clientcmd.ConfigOverrides{}
	overrides.ClusterInfo.Server = master
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, overrides).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %q: %w", kubeconfig, err)
	}
	return config, nil
}

// pulsed is a client that knows when its connections last heard anything.
type pulsed struct {
	kubernetes.Interface
	pulse *pulse
}

// pulse is when the server last sent anything, on any connection.
type pulse struct{ at atomic.Int64 } // Unix nanoseconds; 0: never

func (p *pulse) last() time.Time {
	if at := p.at.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// dial asks the kernel to find a dead peer within 45 s, which HTTP/2's pings (after
// 30 s of silence, for 15 s: client-go's defaults) do too: HTTP/1 has none.
func (p *pulse) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{
		Timeout: 30 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 3,
		},
	}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &heardConn{Conn: conn, pulse: p}, nil
}

// heardConn notes when something was read.
type heardConn struct {
	net.Conn
	pulse *pulse
}

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.pulse.at.Store(time.Now().UnixNano())
	}
	return n, err
}

// Files are what NewClient, and its client from time to time, read: the kubeconfig and
// what it names. None if there is no configuration.
func Files(kubeconfig, master string) []string {
	files := []string{kubeconfig}
	config, err := loadConfig(kubeconfig, master)
	if err == nil {
		files = append(files, config.BearerTokenFile, config.CAFile, config.CertFile, config.KeyFile)
	}
	return slices.DeleteFunc(files, func(name string) bool { return name == "" })
}
