package provisioner

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
)

// nodeCache is what a node knows of the cluster. The API server can select neither claims by their annotations nor
// PersistentVolumes by their affinity, so all of them are watched; but what is not this node's is cut down to its name
// before it is kept.
type nodeCache struct {
	factory informers.SharedInformerFactory
	synced  []cache.InformerSynced

	claimInformer, volumeInformer, classInformer cache.SharedIndexInformer

	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
}

func newNodeCache(client kubernetes.Interface, driver, node string, topology map[string]string) (*nodeCache, error) {
	factory := informers.NewSharedInformerFactory(client, 0)
	claims := factory.Core().V1().PersistentVolumeClaims()
	volumes := factory.Core().V1().PersistentVolumes()
	classes := factory.Storage().V1().StorageClasses()
	c := &nodeCache{
		factory:        factory,
		claimInformer:  claims.Informer(),
		volumeInformer: volumes.Informer(),
		classInformer:  classes.Informer(),
		claims:         claims.Lister(),
		volumes:        volumes.Lister(),
		classes:        classes.Lister(),
	}
	c.synced = []cache.InformerSynced{
		c.claimInformer.HasSynced, c.volumeInformer.HasSynced, c.classInformer.HasSynced,
	}
	if err := c.claimInformer.SetTransform(shrinkClaims(node)); err != nil {
		return nil, err
	}
	if err := c.volumeInformer.SetTransform(shrinkVolumes(driver, topology)); err != nil {
		return nil, err
	}
	return c, c.classInformer.SetTransform(shrinkClasses)
}

// selectedHere says whether a claim waits for this node to provision it.
func selectedHere(claim *corev1.PersistentVolumeClaim, node string) bool {
	return unbound(claim) && claim.Annotations[annSelectedNode] == node
}

func shrinkClaims(node string) cache.TransformFunc {
	return func(object any) (any, error) {
		claim, ok := object.(*corev1.PersistentVolumeClaim)
		if !ok {
			return object, nil
		}
		if selectedHere(claim, node) {
			claim.ManagedFields = nil
			return claim, nil
		}
		return &corev1.PersistentVolumeClaim{ObjectMeta: nameOnly(&claim.ObjectMeta)}, nil
	}
}

func shrinkVolumes(driver string, topology map[string]string) cache.TransformFunc {
	return func(object any) (any, error) {
		pv, ok := object.(*corev1.PersistentVolume)
		if !ok {
			return object, nil
		}
		if ours(pv, driver) && isLocal(pv, topology) {
			pv.ManagedFields = nil
			return pv, nil
		}
		return &corev1.PersistentVolume{ObjectMeta: nameOnly(&pv.ObjectMeta)}, nil
	}
}

func shrinkClasses(object any) (any, error) {
	if class, ok := object.(*storagev1.StorageClass); ok {
		class.ManagedFields = nil
	}
	return object, nil
}

// nameOnly keeps what a cache needs to work.
func nameOnly(in *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: in.Namespace, Name: in.Name, UID: in.UID, ResourceVersion: in.ResourceVersion,
	}
}
