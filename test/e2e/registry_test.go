package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	registryUser     = "tiger"
	registryPassword = "orlop-e2e-pull-secret"
)

// privateImagesFlow: an image that its registry gives to nobody without a password is pulled with a Secret that the pod or
// its ServiceAccount names.
func privateImagesFlow(c *testCluster) {
	server := startRegistry(c.t, c.status().Netns)
	// A repository each, so that no pod finds what another has pulled.
	image := func(repository string) string {
		server.push(c, repository)
		return server.addr + "/" + repository + ":1"
	}
	pulling := func(pod, image, spec string) string {
		return strings.Replace(sleeper(pod, "imagePullPolicy: Always", spec), busyboxImage, image, 1)
	}
	login := func(secret, password string) {
		c.kubectl("create", "secret", "docker-registry", secret, "--docker-server="+server.addr,
			"--docker-username="+registryUser, "--docker-password="+password)
	}
	login("regcred", registryPassword)
	login("wrong", "guess")
	own, refused, byAccount := image("private/own"), image("private/refused"), image("private/account")

	c.apply(pulling("without", refused, "") + pulling("wrong", refused, "imagePullSecrets: [{name: wrong}]") +
		pulling("missing", refused, "imagePullSecrets: [{name: nonesuch}]") +
		pulling("own", own, "imagePullSecrets: [{name: regcred}]"))
	c.waitReady("own")
	const unauthorized = "authorization failed: no basic auth credentials"
	for pod, says := range map[string]string{"without": unauthorized, "wrong": "401 Unauthorized", "missing": unauthorized} {
		c.eventually(pod+" is refused its image", func() error {
			reason := c.get("pod/"+pod, ".status.containerStatuses[0].state.waiting.reason")
			if reason != "ErrImagePull" && reason != "ImagePullBackOff" {
				return fmt.Errorf("the container waits for %q", reason)
			}
			return nil
		})
		out := c.eventuallySays([]string{"Failed to pull image", refused, says}, "describe", "pod/"+pod)
		if strings.Contains(out, registryPassword) || strings.Contains(out, "guess") {
			c.t.Errorf("the description of %s tells the password:\n%s", pod, out)
		}
	}
	c.eventuallySays([]string{"FailedToRetrieveImagePullSecret", "nonesuch"}, "describe", "pod/missing")

	// A Secret that comes, or is corrected, later serves the pods that wait for it.
	c.kubectl("delete", "secret", "wrong")
	login("wrong", registryPassword)
	c.waitReady("wrong")

	c.kubectl("create", "serviceaccount", "puller")
	c.kubectl("patch", "serviceaccount", "puller", "-p", `{"imagePullSecrets":[{"name":"regcred"}]}`)
	c.apply(pulling("account", byAccount, "serviceAccountName: puller"))
	c.waitReady("account")
	if got := c.get("pod/account", ".spec.imagePullSecrets[*].name"); got != "regcred" {
		c.t.Errorf("the pod has the pull secrets %q of its ServiceAccount", got)
	}
	configuredRegistry(c, server, pulling)
}

// configuredRegistry: a registry is reached as a file in the data directory says, from the next pull on.
func configuredRegistry(c *testCluster, server *testRegistry, pulling func(pod, image, spec string) string) {
	const host = "registry.test"
	hosts := filepath.Join(c.dir, "certs.d")
	c.t.Cleanup(func() {
		if err := os.RemoveAll(hosts); err != nil {
			c.t.Error(err)
		}
	})
	if err := os.MkdirAll(filepath.Join(hosts, host), 0o755); err != nil {
		c.t.Fatal(err)
	}
	text := fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+server.addr)
	if err := os.WriteFile(filepath.Join(hosts, host, "hosts.toml"), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	server.push(c, "private/mirrored")
	c.kubectl("create", "secret", "docker-registry", "mirrored", "--docker-server="+host, "--docker-username="+registryUser,
		"--docker-password="+registryPassword)
	c.apply(pulling("mirrored", host+"/private/mirrored:1", "imagePullSecrets: [{name: mirrored}]"))
	c.waitReady("mirrored")
}

// testRegistry is a registry for one password.
type testRegistry struct {
	addr  string // as images name it
	netns string
}

// startRegistry serves a registry on the loopback of a network namespace until the test ends.
func startRegistry(t *testing.T, netns string) *testRegistry {
	t.Helper()
	var listener net.Listener
	err := inside(netns, func() (err error) {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != registryUser || subtle.ConstantTimeCompare([]byte(password), []byte(registryPassword)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="the test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		images.ServeHTTP(w, r)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the registry: %v", err)
		}
	})
	return &testRegistry{addr: listener.Addr().String(), netns: netns}
}

// push brings the image of the tests to a repository, tagged 1: each blob of its archive, then the manifest.
func (r *testRegistry) push(c *testCluster, repository string) {
	c.t.Helper()
	blobs, err := readArchive(filepath.Join(root(), "bin", "images", "busybox.tar"))
	if err != nil {
		c.t.Fatal(err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(blobs[ocispec.ImageIndexFile], &index); err != nil || len(index.Manifests) != 1 {
		c.t.Fatalf("the archive's index lists %d images: %v", len(index.Manifests), err)
	}
	blob := func(d ocispec.Descriptor) []byte { return blobs[ocispec.ImageBlobsDir+"/sha256/"+d.Digest.Encoded()] }
	var manifest ocispec.Manifest
	var config ocispec.Image
	err = json.Unmarshal(blob(index.Manifests[0]), &manifest)
	if err = errors.Join(err, json.Unmarshal(blob(manifest.Config), &config)); err != nil {
		c.t.Fatal(err)
	}
	layer := blob(manifest.Layers[0])
	// An image of its own: the kubelet keeps track of who may use an image by its ID, whatever its name.
	config.Author = repository
	raw, err := json.Marshal(config)
	if err != nil {
		c.t.Fatal(err)
	}
	manifest.Config.Digest, manifest.Config.Size = digest.FromBytes(raw), int64(len(raw))
	body, err := json.Marshal(manifest)
	if err != nil {
		c.t.Fatal(err)
	}
	r.send(c, http.MethodPost, repository+"/blobs/uploads/?digest="+digest.FromBytes(raw).String(), "application/octet-stream", raw)
	r.send(c, http.MethodPost, repository+"/blobs/uploads/?digest="+manifest.Layers[0].Digest.String(), "application/octet-stream", layer)
	r.send(c, http.MethodPut, repository+"/manifests/1", manifest.MediaType, body)
}

// send makes one request of the distribution protocol by which something is made.
func (r *testRegistry) send(c *testCluster, method, path, mediaType string, body []byte) {
	c.t.Helper()
	transport := &http.Transport{DialContext: dialer(r.netns)}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(c.t.Context(), method, "http://"+r.addr+"/v2/"+path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	request.SetBasicAuth(registryUser, registryPassword)
	request.Header.Set("Content-Type", mediaType)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	said, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil || response.StatusCode != http.StatusCreated {
		c.t.Fatalf("%s %s: %s %s %v", method, path, response.Status, said, err)
	}
}

// readArchive reads all the files of an archive.
func readArchive(path string) (contents map[string][]byte, err error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	contents = map[string][]byte{}
	for files := tar.NewReader(in); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return contents, nil
		}
		if err != nil {
			return nil, err
		}
		if contents[header.Name], err = io.ReadAll(files); err != nil {
			return nil, err
		}
	}
}
