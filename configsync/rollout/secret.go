package rollout

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// KeySecret is the Secret that holds the key of the hashes, in the controllers' namespace.
	KeySecret = "orlop-rollout-key"
	keyField  = "key"
)

// keyRetry is how long a key that cannot be had is not asked for again.
const keyRetry = 10 * time.Second

// obtainKey reads the key, and makes one where there is none. It tries until it succeeds or the context ends; it returns
// nil then.
func (c *Controller) obtainKey(ctx context.Context) *hasher {
	for {
		key, err := c.readKey(ctx)
		if err == nil {
			return newHasher(key)
		}
		if ctx.Err() != nil {
			return nil
		}
		c.log.Error(err, "No rollouts until there is a key for the hashes of content; trying again", "after", keyRetry)
		timer := time.NewTimer(keyRetry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func (c *Controller) readKey(ctx context.Context) ([]byte, error) {
	secrets := c.client.CoreV1().Secrets(c.config.Namespace)
	secret, err := secrets.Get(ctx, KeySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		key := make([]byte, keySize)
		if _, err := rand.Read(key); err != nil {
			return nil, err
		}
		immutable := true
		secret, err = secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: KeySecret, Namespace: c.config.Namespace},
			Immutable:  &immutable,
			Data:       map[string][]byte{keyField: key},
		}, metav1.CreateOptions{FieldManager: fieldManager})
		if err != nil {
			return nil, fmt.Errorf("create Secret %s/%s: %w", c.config.Namespace, KeySecret, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", c.config.Namespace, KeySecret, err)
	}
	key := secret.Data[keyField]
	if len(key) != keySize {
		return nil, fmt.Errorf("the Secret %s/%s has %d bytes under %q, and should have %d: delete it, and a new one is made",
			c.config.Namespace, KeySecret, len(key), keyField, keySize)
	}
	return key, nil
}
