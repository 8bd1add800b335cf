// Package apienv starts a real API server for tests: `orlop etcd` and `orlop kube-apiserver`, the very
// programs of the bundled cluster, on free loopback ports, with TLS, RBAC and a service-account issuer; and, when
// asked, kube-controller-manager (with chosen controllers) and kube-scheduler beside them.
//
// Nothing in it is a fake, so that what a controller test sees (conflicts, finalizers, validation, watch order, the
// limits of an RBAC identity) is what the controller sees in production. Only durability is given up: etcd runs
// without fsync, in a temporary directory.
//
// One environment a package, from TestMain, is the usual way:
//
//	var env *apienv.Env
//
//	func TestMain(m *testing.M) { os.Exit(apienv.Run(m, &env, apienv.WithProtectionControllers())) }
//
// Tests of one package then keep apart by Env.Namespace and by names of their own for cluster-scoped objects.
package apienv
