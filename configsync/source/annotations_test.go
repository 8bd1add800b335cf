package source

import (
	"maps"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/orlop-io/orlop/configsync/payload"
)

// TestAnnotations: of an object's annotations those are kept that somebody asked for, and their change is told.
func TestAnnotations(t *testing.T) {
	cm := configMap("ns", "1")
	cm.ResourceVersion = "1"
	cm.Annotations = map[string]string{"wanted": "a", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
	client := fake.NewClientset(cm)
	key := Key{Kind: payload.ConfigMap, Namespace: "ns", Name: "cm"}
	told := make(chan struct{}, 100)
	for _, c := range []struct {
		source *Source
		want   map[string]string
	}{{New(client), nil}, {New(client, "wanted", "absent"), map[string]string{"wanted": "a"}}} {
		defer c.source.Close()
		ref := c.source.Acquire(key, func() { told <- struct{}{} })
		if got := get(t, ref).Annotations; !maps.Equal(got, c.want) {
			t.Errorf("annotations %v, want %v", got, c.want)
		}
		if c.want == nil {
			ref.Release()
			continue
		}
		changed := cm.DeepCopy()
		changed.Annotations["wanted"], changed.ResourceVersion = "b", "2"
		if _, err := client.CoreV1().ConfigMaps("ns").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the change is seen", func() bool { return ref.Last().Annotations["wanted"] == "b" })
		<-told
	}
}
