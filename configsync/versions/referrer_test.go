package versions

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// configured is a template that refers to the ConfigMap c.
func configured() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{
		Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}},
	}}}}
}

func TestTrim(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "n", Namespace: "ns", UID: "u", ResourceVersion: "7", Labels: map[string]string{"app": "web"}}
	template := configured()
	revised := func(data string) *appsv1.ControllerRevision {
		return &appsv1.ControllerRevision{ObjectMeta: meta, Data: runtime.RawExtension{Raw: []byte(data)}}
	}
	inPhase := func(phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: meta, Spec: template.Spec, Status: corev1.PodStatus{Phase: phase}}
	}
	job := func(condition batchv1.JobConditionType, status corev1.ConditionStatus) *batchv1.Job {
		return &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: template},
			Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: condition, Status: status}}}}
	}
	const c = "ConfigMap ns/c"
	for name, x := range map[string]struct {
		object any
		want   string
	}{
		"pod that waits":                {inPhase(corev1.PodPending), c},
		"pod that runs":                 {inPhase(corev1.PodRunning), c},
		"pod nobody hears of":           {inPhase(corev1.PodUnknown), c},
		"pod that succeeded":            {inPhase(corev1.PodSucceeded), ""},
		"pod that failed":               {inPhase(corev1.PodFailed), ""},
		"Deployment":                    {&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Template: template}}, c},
		"ReplicaSet":                    {&appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Template: template}}, c},
		"StatefulSet":                   {&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Template: template}}, c},
		"DaemonSet":                     {&appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Template: template}}, c},
		"ReplicationController":         {&corev1.ReplicationController{ObjectMeta: meta, Spec: corev1.ReplicationControllerSpec{Template: &template}}, c},
		"ReplicationController of none": {&corev1.ReplicationController{ObjectMeta: meta}, ""},
		"CronJob": {&batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}}}, c},
		"Job that runs":      {&batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: template}}, c},
		"Job that waits":     {job(batchv1.JobSuspended, corev1.ConditionTrue), c},
		"Job that succeeded": {job(batchv1.JobComplete, corev1.ConditionTrue), ""},
		"Job that failed":    {job(batchv1.JobFailed, corev1.ConditionTrue), ""},
		"Job that may yet":   {job(batchv1.JobFailed, corev1.ConditionFalse), c},
		"ServiceAccount": {&corev1.ServiceAccount{ObjectMeta: meta, Secrets: []corev1.ObjectReference{{Name: "s"}, {}},
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: "p"}}}, "Secret ns/p Secret ns/s"},
		"revision": {revised(`{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"b"}},` +
			`"spec":{"containers":[{"name":"c","image":"i","envFrom":[{"configMapRef":{"name":"e"}},{"secretRef":{"name":"s"}}],` +
			`"resources":{"limits":{"cpu":"100m"}}}],"volumes":[{"name":"v","configMap":{"name":"c"}}]}}}}`),
			c + " ConfigMap ns/e Secret ns/s"},
		"revision without references":               {revised(`{"spec":{"template":{"$patch":"replace","spec":{"containers":[]}}}}`), ""},
		"revision of another form":                  {revised(`{"any":[{"thing":"c"},7,null,"Not a name"]}`), c + " Secret ns/c"},
		"revision whose template is something else": {revised(`{"spec":{"template":"c"}}`), c + " Secret ns/c"},
		"revision that is no JSON":                  {revised(`spec`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			trimmed, err := trim(x.object)
			if err != nil {
				t.Fatal(err)
			}
			r := trimmed.(*referrer)
			var got []string
			for _, key := range r.refers {
				got = append(got, key.String())
			}
			slices.Sort(got)
			if strings.Join(got, " ") != x.want {
				t.Errorf("it refers to %q, want %q", got, x.want)
			}
			if r.Name != "n" || r.Namespace != "ns" || r.UID != "u" || r.ResourceVersion != "7" || r.Labels != nil {
				t.Errorf("kept %+v", r.ObjectMeta)
			}
			if again, err := trim(trimmed); err != nil || again != trimmed {
				t.Errorf("trimmed again: %v, %v", again, err)
			}
		})
	}
	if _, err := trim(&corev1.Node{}); err == nil {
		t.Error("a Node is taken for something that refers to configuration")
	}
}
