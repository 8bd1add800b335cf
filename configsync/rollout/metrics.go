package rollout

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what the controller does.
type metrics struct {
	rollouts *prometheus.CounterVec

	mu      sync.Mutex
	slots   *slots   // nil while the controller does not run
	objects *objects // as slots
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{rollouts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "orlop_rollouts_total",
		Help: "Rollouts begun because a ConfigMap or Secret changed, by the workload's kind.",
	}, []string{"kind"})}
	if registry == nil {
		return m, nil
	}
	for _, k := range []kind{deployment, statefulSet, daemonSet} {
		m.rollouts.WithLabelValues(string(k))
	}
	gauge := func(name, help string, read func(*slots, *objects) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.slots == nil {
				return 0
			}
			return float64(read(m.slots, m.objects))
		})
	}
	for _, collector := range []prometheus.Collector{
		m.rollouts,
		gauge("orlop_rollouts_running", "Rollouts of this controller's that have not completed.",
			func(s *slots, _ *objects) int { running, _ := s.count(); return running }),
		gauge("orlop_rollouts_waiting", "Workloads that wait because as many rollouts run as may.",
			func(s *slots, _ *objects) int { _, waiting := s.count(); return waiting }),
		gauge("orlop_rollout_objects", "ConfigMaps and Secrets that are followed.",
			func(_ *slots, o *objects) int { return o.count() }),
	} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) rolled(k kind) { m.rollouts.WithLabelValues(string(k)).Inc() }

// watch has the gauges show the state of a run until the returned function is called.
func (m *metrics) watch(s *slots, o *objects) (end func()) {
	set := func(s *slots, o *objects) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.slots, m.objects = s, o
	}
	set(s, o)
	return func() { set(nil, nil) }
}
