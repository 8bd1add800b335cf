package cluster

import "github.com/orlop-io/orlop/cluster/supervisor"

// Status is what `orlop status -o json` prints of a running cluster.
type Status struct {
	ID         string `json:"id"`
	Node       string `json:"node"`
	DataDir    string `json:"dataDir"`
	Kubeconfig string `json:"kubeconfig"`
	Server     string `json:"server"`
	NodeIP     string `json:"nodeIP"`
	Netns      string `json:"netns,omitempty"`
	Plain      bool   `json:"plain"`
	PID        int    `json:"pid"`               // the supervisor's
	Orphans    bool   `json:"orphans,omitempty"` // pods run without a supervisor
	Phase      Phase  `json:"phase"`
	Error      string `json:"error,omitempty"` // why the phase is failed
	// FailedComponent is the one to blame for a failed phase, if it is one.
	FailedComponent string              `json:"failedComponent,omitempty"`
	Components      []supervisor.Status `json:"components"`
	Version         uint64              `json:"version"` // grows with every change of the above
}

// Phase is where the cluster as a whole is.
type Phase string

// The phases of a cluster.
const (
	PhaseStarting Phase = "starting"
	PhaseReady    Phase = "ready" // node Ready, storage registered; stays so while a component restarts
	PhaseFailed   Phase = "failed"
	PhaseStopping Phase = "stopping"
	PhaseStopped  Phase = "stopped" // no supervisor runs
)
