// Package specs is csi-sanity, to be run over a driver that listens already. Package test/sanity does so.
package specs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
)

// volumeSize is small, so that the specs need little room.
const volumeSize = 64 << 20

// TestSpecs runs the specs with volumes of the backend ORLOP_SANITY_BACKEND, used as ORLOP_SANITY_ACCESS says (mount or
// block), over the driver whose socket is csi.sock in ORLOP_SANITY_DIR, and writes the names of the specs that were skipped
// to the file skipped there.
func TestSpecs(t *testing.T) {
	backend, work := os.Getenv("ORLOP_SANITY_BACKEND"), os.Getenv("ORLOP_SANITY_DIR")
	if backend == "" || work == "" {
		t.Skip("run by test/sanity, once a backend")
	}
	config := sanity.NewTestConfig()
	config.Address = "unix:" + filepath.Join(work, "csi.sock")
	config.TargetPath = filepath.Join(work, "target")
	config.StagingPath = filepath.Join(work, "staging")
	config.TestVolumeSize = volumeSize
	config.TestVolumeAccessType = os.Getenv("ORLOP_SANITY_ACCESS")
	config.TestVolumeParameters = map[string]string{"backend": backend}
	// A driver without a controller service has volumes made for the node's specs by who runs these.
	if controller := os.Getenv("ORLOP_SANITY_CONTROLLER"); controller != "" {
		config.ControllerAddress = "unix:" + controller
	}
	context := sanity.GinkgoTest(&config)
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.ReportAfterSuite("skips", func(report ginkgo.Report) {
		var skipped []string
		for _, spec := range report.SpecReports {
			if spec.LeafNodeType == types.NodeTypeIt && spec.State.Is(types.SpecStateSkipped|types.SpecStatePending) {
				skipped = append(skipped, spec.FullText())
			}
		}
		slices.Sort(skipped)
		err := os.WriteFile(filepath.Join(work, "skipped"), []byte(strings.Join(skipped, "\n")), 0o600)
		gomega.Expect(err).NotTo(gomega.HaveOccurred())
	})
	ginkgo.RunSpecs(t, "csi-sanity over backend "+backend+", "+config.TestVolumeAccessType)
	context.Finalize()
}
