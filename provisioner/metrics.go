package provisioner

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// metrics are the counters of one role. They exist whether or not they are registered.
type metrics struct {
	operations *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	refusals   prometheus.Counter
}

// newMetrics registers the metrics with r, which may be nil. Metrics that another role in the process registered before
// are shared.
func newMetrics(r prometheus.Registerer, driver string) (*metrics, error) {
	labels := prometheus.Labels{"driver": driver}
	m := &metrics{
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "orlop_provisioner_operations_total",
			Help:        "CSI calls made for claims and volumes, by operation and gRPC code.",
			ConstLabels: labels,
		}, []string{"operation", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:        "orlop_provisioner_operation_duration_seconds",
			Help:        "Time that CSI calls took, in seconds, by operation.",
			ConstLabels: labels,
			Buckets:     []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"operation"}),
		refusals: prometheus.NewCounter(prometheus.CounterOpts{
			Name:        "orlop_provisioner_refusals_total",
			Help:        "Claims refused without asking the driver.",
			ConstLabels: labels,
		}),
	}
	if r == nil {
		return m, nil
	}
	var err error
	m.operations = register(r, m.operations, &err)
	m.duration = register(r, m.duration, &err)
	m.refusals = register(r, m.refusals, &err)
	return m, err
}

func register[C prometheus.Collector](r prometheus.Registerer, c C, errs *error) C {
	err := r.Register(c)
	var registered prometheus.AlreadyRegisteredError
	if errors.As(err, &registered) {
		if existing, ok := registered.ExistingCollector.(C); ok {
			return existing
		}
	}
	*errs = errors.Join(*errs, err)
	return c
}

func (m *metrics) observe(operation string, code codes.Code, took time.Duration) {
	m.operations.WithLabelValues(operation, code.String()).Inc()
	m.duration.WithLabelValues(operation).Observe(took.Seconds())
}
