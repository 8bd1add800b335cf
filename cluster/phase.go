package cluster

import "sync"

// phaseState is where the cluster as a whole is. Its methods are safe for concurrent use.
type phaseState struct {
	mu        sync.Mutex
	phase     Phase
	component string // to blame for PhaseFailed, if it is one
	reason    string
	steps     int    // of the bootstrap that are done
	pending   string // what its present step waits for
}

// set changes the phase. Once the cluster is being stopped nothing else is news.
func (p *phaseState) set(phase Phase, component, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != PhaseStopping {
		p.phase, p.component, p.reason = phase, component, reason
	}
}

// attempt notes how an attempt at the present step of the bootstrap ended: by nil it is done.
func (p *phaseState) attempt(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.steps, p.pending = p.steps+1, ""
	} else {
		p.pending = err.Error()
	}
}

// progress returns how many steps of the bootstrap are done, and what the present one waits for.
func (p *phaseState) progress() (steps int, pending string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.steps, p.pending
}
