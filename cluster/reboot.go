package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/orlop-io/orlop/cluster/file"
)

// bootIDFile is where the kernel names the present boot of the machine.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// forgetLastBoot removes what described the running containers of an earlier boot. Elsewhere such state lies in /run,
// which a reboot empties; here it lies in the data directory, with all else of the cluster.
func (l Layout) forgetLastBoot() error {
	now, err := os.ReadFile(bootIDFile)
	if err != nil {
		return err
	}
	last, err := os.ReadFile(l.bootFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if bytes.Equal(now, last) {
		return nil
	}
	if err := os.RemoveAll(l.containerdState()); err != nil {
		return fmt.Errorf("removing the container runtime's state of the last boot: %w", err)
	}
	return file.WriteAll(l.bootFile(), now, 0o644)
}
