package volumes

import (
	"maps"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/configsync/source"
)

const (
	// busy is for how long a pod is looked at more often after a sync of it began: the kubelet syncs it again only when it
	// is done with the first change, which takes it a third of a second.
	busy = time.Second
	// often is how often that is.
	often = 10 * time.Millisecond
	// doubt is for how long after an outage of the API server what the kubelet knows is not relied on: it spaces the
	// attempts of its own watch of pods up to a minute apart.
	doubt = 2 * time.Minute
)

// pods tells volumes of changed labels and annotations of their pods. It needs no watch, for the kubelet watches the pods
// of its node already; after an outage it has one for a while.
type pods struct {
	mu sync.Mutex
	// get returns a pod as the kubelet has it; nil until the kubelet has told how.
	get     func(namespace, name string) (*v1.Pod, bool)
	follows map[types.UID]*followed
	// timer looks at pods that are busy; nil while none is.
	timer  *time.Timer
	closed bool
	// watch is of the API server; nil until there is a client. It is relied on until then, and calm then ends it.
	watch *source.Pods
	until time.Time
	calm  *time.Timer
}

// followed is a pod that volumes show fields of.
type followed struct {
	namespace, name     string
	busy                time.Time // until when
	labels, annotations map[string]string
	notify              map[*podRef]func()
	watched             *source.PodRef // nil where the kubelet is relied on
}

func newPods() *pods { return &pods{follows: map[types.UID]*followed{}} }

// podRef is one volume's interest in its pod.
type podRef struct {
	pods *pods
	uid  types.UID
}

// follow calls notify after a change of the pod's labels or annotations until the reference is released. It must return
// at once.
func (p *pods) follow(pod *v1.Pod, notify func()) *podRef {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.follows[pod.UID]
	if f == nil {
		f = &followed{namespace: pod.Namespace, name: pod.Name, labels: pod.Labels, annotations: pod.Annotations, notify: map[*podRef]func(){}}
		p.follows[pod.UID] = f
	}
	r := &podRef{pods: p, uid: pod.UID}
	f.notify[r] = notify
	if p.calm != nil {
		p.distrust(pod.UID, f)
	}
	return r
}

// release gives the reference up. Releasing twice does nothing.
func (r *podRef) release() {
	r.pods.mu.Lock()
	defer r.pods.mu.Unlock()
	f := r.pods.follows[r.uid]
	if f == nil {
		return
	}
	delete(f.notify, r)
	if len(f.notify) == 0 {
		f.trust()
		delete(r.pods.follows, r.uid)
	}
}

// see looks whether a pod's labels or annotations are others than those seen last. It is called for every pod, often.
func (p *pods) see(pod *v1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.follows[pod.UID]
	if f == nil || !f.look(pod) || p.get == nil || p.closed {
		return
	}
	f.busy = time.Now().Add(busy)
	if p.timer == nil {
		p.timer = time.AfterFunc(often, p.lookAgain)
	}
}

// lookAgain looks at the pods that changed a moment ago.
func (p *pods) lookAgain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, again := time.Now(), false
	for uid, f := range p.follows {
		if p.closed || now.After(f.busy) {
			continue
		}
		again = true
		if pod, ok := p.get(f.namespace, f.name); ok && pod.UID == uid && f.look(pod) {
			f.busy = now.Add(busy)
		}
	}
	if again {
		p.timer.Reset(often)
	} else {
		p.timer = nil
	}
}

// outage is called when the API server does not answer, and when it answers again.
func (p *pods) outage() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = time.Now().Add(doubt)
	if p.calm != nil || p.closed || p.watch == nil {
		return
	}
	p.calm = time.AfterFunc(doubt, p.over)
	for uid, f := range p.follows {
		p.distrust(uid, f)
	}
}

// distrust has the watch tell of a pod. p.mu is held.
func (p *pods) distrust(uid types.UID, f *followed) {
	if f.watched != nil {
		return
	}
	f.watched = p.watch.Acquire(uid, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		f.tell()
	})
}

// over ends the watch where the last outage is long enough ago.
func (p *pods) over() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if wait := time.Until(p.until); wait > 0 {
		p.calm.Reset(wait)
		return
	}
	p.calm = nil
	for _, f := range p.follows {
		f.trust()
		f.tell()
	}
}

// close ends the looking and the watch.
func (p *pods) close() {
	p.mu.Lock()
	p.closed = true
	for _, timer := range []*time.Timer{p.timer, p.calm} {
		if timer != nil {
			timer.Stop()
		}
	}
	p.mu.Unlock()
	if p.watch != nil {
		p.watch.Close()
	}
}

// trust goes back to what the kubelet knows.
func (f *followed) trust() {
	if f.watched != nil {
		f.watched.Release()
		f.watched = nil
	}
}

// tell has the volumes look at the pod.
func (f *followed) tell() {
	for _, call := range f.notify {
		call()
	}
}

// look tells the volumes of labels or annotations that are others than those seen last, and reports whether they are.
func (f *followed) look(pod *v1.Pod) bool {
	if maps.Equal(f.labels, pod.Labels) && maps.Equal(f.annotations, pod.Annotations) {
		return false
	}
	f.labels, f.annotations = pod.Labels, pod.Annotations
	f.tell()
	return true
}

// newest returns the pod as the kubelet has it now, or the one that is given where it has none of that UID, with the
// labels and annotations of the watch where there is one.
func (p *pods) newest(pod *v1.Pod) *v1.Pod {
	p.mu.Lock()
	get := p.get
	var watched *source.PodRef
	if f := p.follows[pod.UID]; f != nil {
		watched = f.watched
	}
	p.mu.Unlock()
	if get != nil {
		if now, ok := get(pod.Namespace, pod.Name); ok && now.UID == pod.UID {
			pod = now
		}
	}
	if watched == nil {
		return pod
	}
	seen, ok := watched.Last()
	if !ok {
		return pod
	}
	newest := *pod
	newest.Labels, newest.Annotations = seen.Labels, map[string]string{}
	maps.Copy(newest.Annotations, seen.Annotations)
	for name, value := range pod.Annotations {
		if strings.HasPrefix(name, localAnnotations) {
			newest.Annotations[name] = value
		}
	}
	return &newest
}

// localAnnotations are those that the kubelet itself adds to its copy of a pod; the API does not have them.
const localAnnotations = "kubernetes.io/config."

// FollowPods lets the plugins follow the labels and annotations of the kubelet's pods; see kubelet.PodFollower. All
// plugins share what it returns, so that only the first one that is asked returns it, and the others nil.
func (p *plugin) FollowPods(get func(namespace, name string) (*v1.Pod, bool)) func(*v1.Pod) {
	all := p.manager.pods
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.get != nil {
		return nil
	}
	all.get = get
	return all.see
}
