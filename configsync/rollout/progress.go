package rollout

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// progress is how far a workload is with replacing its pods, by its own status.
type progress struct {
	// complete: all of its pods are of the present template, and available.
	complete bool
	// failed: it says itself that it does not get on (a Deployment's ProgressDeadlineExceeded).
	failed bool
	// held: a Deployment that is paused by its spec replaces no pods.
	held bool
	// manual: its strategy is OnDelete, so that it replaces pods only when somebody deletes them.
	manual bool
}

// running reports whether pods are being replaced.
func (p *progress) running() bool { return !p.complete && !p.failed && !p.held && !p.manual }

// deploymentProgress judges as `kubectl rollout status` does.
func deploymentProgress(d *appsv1.Deployment) progress {
	p := progress{held: d.Spec.Paused}
	if d.Status.ObservedGeneration < d.Generation {
		return p
	}
	for i := range d.Status.Conditions {
		c := &d.Status.Conditions[i]
		if c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded" {
			p.failed = true
		}
	}
	s := &d.Status
	p.complete = s.UpdatedReplicas >= replicas(d.Spec.Replicas) && s.Replicas <= s.UpdatedReplicas &&
		s.AvailableReplicas >= s.UpdatedReplicas
	return p
}

// statefulSetProgress takes a set with a partition for complete when the pods above the partition are replaced.
func statefulSetProgress(set *appsv1.StatefulSet) progress {
	p := progress{manual: set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType}
	if set.Status.ObservedGeneration < set.Generation {
		return p
	}
	want := replicas(set.Spec.Replicas)
	updated := want
	if u := set.Spec.UpdateStrategy.RollingUpdate; u != nil && u.Partition != nil {
		updated = max(0, want-*u.Partition)
	}
	s := &set.Status
	p.complete = s.AvailableReplicas >= want && (s.UpdatedReplicas >= updated || s.CurrentRevision == s.UpdateRevision)
	return p
}

func daemonSetProgress(d *appsv1.DaemonSet) progress {
	p := progress{manual: d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType}
	if d.Status.ObservedGeneration < d.Generation {
		return p
	}
	s := &d.Status
	p.complete = s.UpdatedNumberScheduled >= s.DesiredNumberScheduled && s.NumberAvailable >= s.DesiredNumberScheduled
	return p
}

// replicas is the API's default where nothing is said.
func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
