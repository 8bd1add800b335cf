package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// credentialsFlow: Secrets of the type Opaque, from everything that they can be made from, in every way they are used.
func credentialsFlow(c *testCluster) {
	const password = `39528$vdg7Jb` // with what shells and templates take for something else
	dir := c.files(map[string]string{
		"username.txt": "my-app", "password.txt": password, "folder/a": "A", "folder/.secret-file": "dot",
		"vars": "DB_USER=db\nDB_PASS=hunter2\n", "key": "\x00\xff\xfe",
	})
	c.kubectl("create", "secret", "generic", "test-secret", "--from-literal=username=my-app", "--from-literal=password="+password)
	c.kubectl("create", "secret", "generic", "from-files", "--from-file=username="+dir+"/username.txt", "--from-file="+dir+"/password.txt",
		"--from-file="+dir+"/key")
	c.kubectl("create", "secret", "generic", "from-folder", "--from-file="+dir+"/folder")
	c.kubectl("create", "secret", "generic", "from-vars", "--from-env-file="+dir+"/vars")
	c.kubectl("create", "secret", "generic", "typed", "--type=example.com/kind", "--from-literal=literal=L",
		"--from-file=file="+dir+"/username.txt", "--from-file="+dir+"/folder")
	c.apply("{apiVersion: v1, kind: Secret, metadata: {name: encoded}, data: {username: bXktYXBw}, stringData: {plain: text}}")
	for name, want := range map[string]map[string]string{
		"test-secret": {"username": "my-app", "password": password},
		"from-files":  {"username": "my-app", "password.txt": password, "key": "\x00\xff\xfe"},
		"from-folder": {"a": "A", ".secret-file": "dot"},
		"from-vars":   {"DB_USER": "db", "DB_PASS": "hunter2"},
		"typed":       {"literal": "L", "file": "my-app", "a": "A", ".secret-file": "dot"},
		"encoded":     {"username": "my-app", "plain": "text"},
	} {
		s := read[corev1.Secret](c, "secret/"+name)
		holds(c, name, s.Data, want)
		if want := map[bool]corev1.SecretType{true: "example.com/kind", false: corev1.SecretTypeOpaque}[name == "typed"]; s.Type != want {
			c.t.Errorf("%s is of type %s, want %s", name, s.Type, want)
		}
	}
	c.apply(sleeper("user", `
    env:
    - {name: SECRET_USERNAME, valueFrom: {secretKeyRef: {name: test-secret, key: username}}}
    - {name: NONE, valueFrom: {secretKeyRef: {name: nonesuch, key: none, optional: true}}}
    envFrom: [{secretRef: {name: from-vars}}, {prefix: MY_, secretRef: {name: test-secret}}]
    volumeMounts:
    - {name: all, mountPath: /etc/secret-volume, readOnly: true}
    - {name: some, mountPath: /etc/foo, readOnly: true}
    - {name: dotted, mountPath: /etc/dotted}
    - {name: both, mountPath: /etc/both}
    - {name: all, mountPath: /root/password, subPath: password.txt}`, `
  volumes:
  - {name: all, secret: {secretName: from-files}}
  - {name: some, secret: {secretName: test-secret, items: [{key: username, path: my-group/my-username, mode: 0511}]}}
  - {name: dotted, secret: {secretName: from-folder, defaultMode: 256}}
  - name: both
    projected: {sources: [{secret: {name: encoded, items: [{key: plain, path: encoded/plain}]}}, {secret: {name: from-vars}}]}`))
	c.waitReady("user")
	c.says("user", map[string]string{
		"echo $SECRET_USERNAME $DB_USER $DB_PASS $MY_username ${NONE-none}":                            "my-app db hunter2 my-app none\n",
		"echo $MY_password; cat /root/password":                                                        password + "\n" + password,
		"cd /etc/secret-volume; ls; xxd -p key; cat username":                                          "key\npassword.txt\nusername\n00fffe\nmy-app",
		"cat /etc/foo/my-group/my-username; stat -Lc ' %a' /etc/foo/my-group/my-username; ls /etc/foo": "my-app 511\nmy-group\n",
		"cd /etc/dotted; cat .secret-file a; stat -Lc ' %a' a .secret-file":                            "dotA 400\n 400\n",
		"cd /etc/both; cat encoded/plain DB_USER":                                                      "textdb",
		"df /etc/secret-volume /etc/both | grep -c tmpfs":                                              "2\n",
	})
}

// typedSecretsFlow: the Secrets that kubectl makes for TLS and for registries have the keys that their users look for.
func typedSecretsFlow(c *testCluster) {
	cert, key := certificate(c.t)
	dir := c.files(map[string]string{"cert.pem": cert, "key.pem": key, "other.pem": otherKey(c.t)})
	c.kubectl("create", "secret", "tls", "my-tls-secret", "--cert="+dir+"/cert.pem", "--key="+dir+"/key.pem")
	c.refused([]string{"does not match"},
		c.inNamespace("create", "secret", "tls", "refused", "--cert="+dir+"/cert.pem", "--key="+dir+"/other.pem")...)
	c.kubectl("create", "secret", "docker-registry", "regcred", "--docker-server=registry.example.com:5000",
		"--docker-username=tiger", "--docker-password=pass1234", "--docker-email=tiger@acme.example")
	if got := read[corev1.Secret](c, "secret/my-tls-secret"); got.Type != corev1.SecretTypeTLS {
		c.t.Errorf("the Secret of TLS is of type %s", got.Type)
	} else if _, err := tls.X509KeyPair(got.Data["tls.crt"], got.Data["tls.key"]); err != nil {
		c.t.Errorf("the Secret of TLS: %v", err)
	}
	regcred := read[corev1.Secret](c, "secret/regcred")
	var config struct {
		Auths map[string]struct{ Username, Password, Email, Auth string }
	}
	if err := json.Unmarshal(regcred.Data[corev1.DockerConfigJsonKey], &config); err != nil || regcred.Type != corev1.SecretTypeDockerConfigJson {
		c.t.Fatalf("the registry's Secret is of type %s: %v", regcred.Type, err)
	}
	if got := config.Auths["registry.example.com:5000"]; got.Username != "tiger" || got.Password != "pass1234" ||
		got.Auth != base64.StdEncoding.EncodeToString([]byte("tiger:pass1234")) {
		c.t.Errorf("the registry's credentials are %+v", got)
	}
	// Another Secret of the same kind, from the file that a login leaves.
	dir = c.files(map[string]string{"config.json": string(regcred.Data[corev1.DockerConfigJsonKey])})
	c.kubectl("create", "secret", "generic", "from-login", "--type=kubernetes.io/dockerconfigjson",
		"--from-file=.dockerconfigjson="+dir+"/config.json")
	c.apply(sleeper("server", "volumeMounts: [{name: tls, mountPath: /tls}, {name: login, mountPath: /root/.docker}]", `
  volumes:
  - {name: tls, secret: {secretName: my-tls-secret, defaultMode: 0400}}
  - {name: login, secret: {secretName: from-login, items: [{key: .dockerconfigjson, path: config.json}]}}`))
	c.waitReady("server")
	c.says("server", map[string]string{
		"cd /tls; ls; stat -Lc %a *":    "tls.crt\ntls.key\n400\n400\n",
		"cat /tls/tls.crt":              cert,
		"cat /root/.docker/config.json": string(regcred.Data[corev1.DockerConfigJsonKey]),
	})
}

func otherKey(t *testing.T) string {
	t.Helper()
	_, key := certificate(t)
	return key
}

// certificate makes a certificate that its own key has signed.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web.example.com"}, DNSNames: []string{"web.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}
