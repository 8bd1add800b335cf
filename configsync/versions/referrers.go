package versions

import (
	"context"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"

	"github.com/orlop-io/orlop/configsync/source"
)

// kind is one kind of objects that can refer to configuration.
type kind struct {
	resource string
	client   rest.Interface
	example  runtime.Object
	fields   fields.Selector
}

// kinds are all of them.
func kinds(client kubernetes.Interface) []kind {
	core, apps, batch := client.CoreV1().RESTClient(), client.AppsV1().RESTClient(), client.BatchV1().RESTClient()
	all := fields.Everything()
	// Pods that have ended are not even sent.
	running := fields.AndSelectors(fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)))
	return []kind{
		{"deployments", apps, &appsv1.Deployment{}, all},
		{"statefulsets", apps, &appsv1.StatefulSet{}, all},
		{"daemonsets", apps, &appsv1.DaemonSet{}, all},
		{"cronjobs", batch, &batchv1.CronJob{}, all},
		{"jobs", batch, &batchv1.Job{}, all},
		{"replicationcontrollers", core, &corev1.ReplicationController{}, all},
		{"replicasets", apps, &appsv1.ReplicaSet{}, all},
		{"controllerrevisions", apps, &appsv1.ControllerRevision{}, all},
		{"serviceaccounts", core, &corev1.ServiceAccount{}, all},
		{"pods", core, &corev1.Pod{}, running},
	}
}

func (k *kind) listWatch() *cache.ListWatch {
	return cache.NewFilteredListWatchFromClient(k.client, k.resource, metav1.NamespaceAll,
		func(o *metav1.ListOptions) { o.FieldSelector = k.fields.String() })
}

// byReference is the index of referrers by what they refer to.
const byReference = "reference"

// referrers knows what refers to what, in the whole cluster, as far as its informers have heard.
type referrers struct {
	informers []cache.SharedIndexInformer
	synced    []cache.InformerSynced
	cancel    context.CancelFunc
	running   sync.WaitGroup
}

// startReferrers starts the informers. changed is called, from several goroutines, with what a new, changed or deleted
// object refers to or did. The caller closes what is returned.
func startReferrers(ctx context.Context, client kubernetes.Interface, changed func([]source.Key)) (*referrers, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &referrers{cancel: cancel}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { changed(refersTo(o)) },
		UpdateFunc: func(old, o any) {
			changed(refersTo(old))
			changed(refersTo(o))
		},
		DeleteFunc: func(o any) { changed(refersTo(o)) },
	}
	for _, k := range kinds(client) {
		informer := cache.NewSharedIndexInformer(k.listWatch(), k.example, 0, cache.Indexers{
			byReference: func(o any) ([]string, error) {
				var names []string
				for _, key := range refersTo(o) {
					names = append(names, key.String())
				}
				return names, nil
			},
		})
		err := informer.SetTransform(trim)
		if err == nil {
			var registration cache.ResourceEventHandlerRegistration
			if registration, err = informer.AddEventHandler(handler); err == nil {
				r.synced = append(r.synced, registration.HasSynced)
			}
		}
		if err != nil {
			cancel()
			return nil, fmt.Errorf("watch %s: %w", k.resource, err)
		}
		r.informers = append(r.informers, informer)
	}
	for _, informer := range r.informers {
		r.running.Go(func() { informer.RunWithContext(ctx) })
	}
	return r, nil
}

// close ends the informers and waits for them.
func (r *referrers) close() {
	r.cancel()
	r.running.Wait()
}

// wait waits until everything has been read once, and is false when the context ended first.
func (r *referrers) wait(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), r.synced...)
}

// of returns one that refers to the object, nil when none does.
func (r *referrers) of(key source.Key) (*referrer, error) {
	for _, informer := range r.informers {
		found, err := informer.GetIndexer().ByIndex(byReference, key.String())
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			return found[0].(*referrer), nil
		}
	}
	return nil, nil
}

func refersTo(object any) []source.Key {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	if r, ok := object.(*referrer); ok {
		return r.refers
	}
	return nil
}

// pageSize is how many objects are asked for at a time where no cache holds them.
const pageSize = 500

// listReferrers asks the API server itself, by consistent reads, which of the objects are referred to, and by what.
// Templates come before what is made of them, and pods last: what a workload made while this ran is seen.
func listReferrers(ctx context.Context, client kubernetes.Interface, wanted map[source.Key]bool) (map[source.Key]*referrer, error) {
	found := map[source.Key]*referrer{}
	for _, k := range kinds(client) {
		lw := k.listWatch()
		p := pager.New(pager.ListPageFunc(lw.ListWithContextFunc))
		p.PageSize, p.PageBufferSize = pageSize, 0
		err := p.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
			trimmed, err := trim(o)
			if err != nil {
				return err
			}
			r := trimmed.(*referrer)
			for _, key := range r.refers {
				if wanted[key] && found[key] == nil {
					found[key] = r
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", k.resource, err)
		}
	}
	return found, nil
}
