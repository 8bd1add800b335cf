package source

import (
	"context"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// PodMeta is what of a pod can change while it runs and is shown by the downward API.
type PodMeta struct {
	ResourceVersion     string
	Labels, Annotations map[string]string
}

// Pods watches the pods of one node while somebody refers to one. One watch serves all of them. Its methods may be
// called from several goroutines.
type Pods struct {
	client kubernetes.Interface
	gate   *gate
	node   string

	mu     sync.Mutex
	refs   map[types.UID]map[*PodRef]func()
	pods   map[types.UID]PodMeta
	stop   context.CancelFunc
	closed bool
	watch  int
	wg     sync.WaitGroup
}

// Pods returns the pods of the node, which must be closed before the Source. Nothing is read before the first Acquire.
func (s *Source) Pods(node string) *Pods {
	return &Pods{client: s.client, gate: s.gate, node: node, refs: map[types.UID]map[*PodRef]func(){}, pods: map[types.UID]PodMeta{}}
}

// Close ends the watch and waits for it.
func (p *Pods) Close() {
	p.mu.Lock()
	p.closed = true
	p.halt()
	p.mu.Unlock()
	p.wg.Wait()
}

// Acquire refers to a pod. notify is called after a change of it, from the watch's goroutine: it must return at once.
func (p *Pods) Acquire(uid types.UID, notify func()) *PodRef {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &PodRef{pods: p, uid: uid}
	if p.refs[uid] == nil {
		p.refs[uid] = map[*PodRef]func(){}
	}
	p.refs[uid][r] = notify
	if p.stop == nil && !p.closed {
		p.start()
	}
	return r
}

// start opens the watch. p.mu is held.
func (p *Pods) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	api := p.client.CoreV1().Pods(metav1.NamespaceAll)
	r := reflect(p.client, p.gate, "pods of "+p.node, "spec.nodeName="+fields.EscapeValue(p.node), &corev1.Pod{}, &podStore{p, p.watch},
		func(error) {}, // client-go logs it and tries again; what is known stays
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) }, api.Watch)
	p.wg.Go(func() { r.RunWithContext(ctx) })
}

// halt ends the watch. p.mu is held.
func (p *Pods) halt() {
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
	p.watch++
	clear(p.pods)
}

// PodRef is one reference to a pod.
type PodRef struct {
	pods *Pods
	uid  types.UID
}

// Last returns the pod as it was last seen, and false where the watch has not seen it.
func (r *PodRef) Last() (PodMeta, bool) {
	r.pods.mu.Lock()
	defer r.pods.mu.Unlock()
	m, ok := r.pods.pods[r.uid]
	return m, ok
}

// Release gives the reference up; the last one of the node ends the watch. Releasing twice does nothing.
func (r *PodRef) Release() {
	p := r.pods
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.refs[r.uid], r)
	if len(p.refs[r.uid]) == 0 {
		delete(p.refs, r.uid)
	}
	if len(p.refs) == 0 {
		p.halt()
	}
}

// podStore is where the reflector of one watch puts the node's pods.
type podStore struct {
	pods  *Pods
	watch int
}

var _ cache.ReflectorStore = (*podStore)(nil)

// change calls f under the lock, unless the watch is over, and then those that it returns.
func (s *podStore) change(f func(p *Pods) []func()) {
	s.pods.mu.Lock()
	var notify []func()
	if s.watch == s.pods.watch {
		notify = f(s.pods)
	}
	s.pods.mu.Unlock()
	for _, call := range notify {
		call()
	}
}

// put takes a pod over and returns whom to tell. p.mu is held.
func (p *Pods) put(o any) []func() {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return nil
	}
	old, known := p.pods[pod.UID]
	p.pods[pod.UID] = PodMeta{ResourceVersion: pod.ResourceVersion, Labels: pod.Labels, Annotations: pod.Annotations}
	// Most changes of a pod are of its status.
	if known && maps.Equal(old.Labels, pod.Labels) && maps.Equal(old.Annotations, pod.Annotations) {
		return nil
	}
	var notify []func()
	for _, call := range p.refs[pod.UID] {
		notify = append(notify, call)
	}
	return notify
}

// Add is called when a pod appears.
func (s *podStore) Add(o any) error {
	s.change(func(p *Pods) []func() { return p.put(o) })
	return nil
}

// Update is called when a pod changes.
func (s *podStore) Update(o any) error { return s.Add(o) }

// Delete is called when a pod disappears.
func (s *podStore) Delete(o any) error {
	s.change(func(p *Pods) []func() {
		if pod, ok := o.(*corev1.Pod); ok {
			delete(p.pods, pod.UID)
		}
		return nil
	})
	return nil
}

// Replace is called with all pods of the node.
func (s *podStore) Replace(list []any, _ string) error {
	s.change(func(p *Pods) []func() {
		present := map[types.UID]bool{}
		var notify []func()
		for _, o := range list {
			notify = append(notify, p.put(o)...)
			if pod, ok := o.(*corev1.Pod); ok {
				present[pod.UID] = true
			}
		}
		for uid := range p.pods {
			if !present[uid] {
				delete(p.pods, uid)
			}
		}
		return notify
	})
	return nil
}

// Resync does nothing: there is no resync period.
func (s *podStore) Resync() error { return nil }
