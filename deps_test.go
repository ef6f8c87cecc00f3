package switchyard
import (
_ "k8s.io/api/core/v1"
_ "k8s.io/api/discovery/v1"
_ "k8s.io/apimachinery/pkg/util/validation/field"
_ "k8s.io/client-go/kubernetes/scheme"
_ "github.com/coreos/go-iptables/iptables"
_ "github.com/vishvananda/netlink"
_ "github.com/vishvananda/netlink/nl"
_ "github.com/vishvananda/netns"
_ "github.com/spf13/pflag"
_ "github.com/fsnotify/fsnotify"
_ "sigs.k8s.io/yaml"
_ "go.yaml.in/yaml/v3"
_ "github.com/jedib0t/go-pretty/v6/table"
_ "golang.org/x/tools/txtar"
_ "golang.org/x/sys/unix"
)
