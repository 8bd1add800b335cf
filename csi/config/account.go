package config

import (
	"fmt"
	"net/http"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
)

// Account names a ServiceAccount.
type Account struct {
	Namespace, Name string
}

// String returns the account as messages show it.
func (a Account) String() string { return a.Namespace + "/" + a.Name }

// account is what volumes of pods of one ServiceAccount share: tokens, and the objects that are read with them.
type account struct {
	Account
	tokens *tokens
	source *source.Source
	users  int // volumes; guarded by the driver
}

// useAccount returns the ServiceAccount's, for one more volume.
func (d *Driver) useAccount(name Account) (*account, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.accounts[name]
	if a == nil {
		a = &account{Account: name, tokens: newTokens(d.now)}
		config := rest.AnonymousClientConfig(d.config.API)
		config.QPS = -1
		config.WarningHandler = rest.NoWarnings{}
		config.WrapTransport = func(next http.RoundTripper) http.RoundTripper { return &transport{next, a.tokens} }
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("make a client of the API server: %w", err)
		}
		a.source = source.New(client)
		d.accounts[name] = a
	}
	a.users++
	return a, nil
}

// leaveAccount forgets the volume's token, and the account with its last volume.
func (d *Driver) leaveAccount(a *account, volume string) {
	a.tokens.drop(volume)
	d.mu.Lock()
	a.users--
	last := a.users == 0
	if last {
		delete(d.accounts, a.Account)
	}
	d.mu.Unlock()
	if last {
		a.source.Close()
	}
}

// resources are the plural names of the kinds, as RBAC has them.
var resources = map[payload.Kind]string{payload.ConfigMap: "configmaps", payload.Secret: "secrets"}

// advice says what to grant so that the ServiceAccount may read the object.
func advice(a Account, k source.Key) string {
	role := "read-" + strings.ToLower(string(k.Kind)) + "-" + k.Name
	return fmt.Sprintf("ServiceAccount %s may not get, list and watch %s; to grant it: "+
		"kubectl create role %s -n %s --verb=get,list,watch --resource=%s --resource-name=%s && "+
		"kubectl create rolebinding %s-%s-%s -n %s --role=%s --serviceaccount=%s:%s",
		a, k, role, k.Namespace, resources[k.Kind], k.Name,
		role, a.Namespace, a.Name, k.Namespace, role, a.Namespace, a.Name)
}
