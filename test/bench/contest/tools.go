package contest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// prepareTables makes a flavour of iptables the node's: its programs come first in
// PATH under the plain names, and the mark of the kubelet (KEP-3178) is in its tables.
func prepareTables(tables string, s Stage) error {
	bin := filepath.Join(s.Dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, end := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(family + "-" + tables + end)
			if err != nil {
				return fmt.Errorf("find the %s tables' programs: %w", tables, err)
			}
			if path, err = filepath.EvalSymlinks(path); err != nil {
				return err
			}
			err = os.Symlink(path, filepath.Join(bin, family+end))
			if err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		_, err := s.Street.Node.Output(context.Background(), filepath.Join(bin, family), "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
		if err != nil {
			return err
		}
	}
	return nil
}
