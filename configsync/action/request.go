package action

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// server returns the container a request is for, and nil where none is running. A port's number needs no certain one.
func (s *Spec) server(running []Container) (*Container, error) {
	_, err := strconv.Atoi(s.Request.Port)
	byName := err != nil
	var found *Container
	for i, c := range running {
		if s.Container != "" && c.Name != s.Container {
			continue
		}
		if byName {
			if _, err := portOf(s.Request.Port, c.Ports); err != nil {
				if s.Container != "" {
					return nil, permanentError{err}
				}
				continue
			}
			if found != nil {
				return nil, permanent("port %s: containers %s and %s have a port of that name; add ,container=name",
					s.Request.Port, found.Name, c.Name)
			}
		}
		if found == nil {
			found = &running[i]
		}
	}
	if byName && found == nil && s.Container == "" && len(running) > 0 {
		// The container that has it may not run yet.
		return nil, fmt.Errorf("port %s: no running container of the pod has a TCP port of that name", s.Request.Port)
	}
	return found, nil
}

func (s *Spec) port(c *Container) (string, error) { return portOf(s.Request.Port, c.Ports) }

// portOf returns the number of a port that is given by number or name.
func portOf(port string, ports []corev1.ContainerPort) (string, error) {
	if _, err := strconv.Atoi(port); err == nil {
		return port, nil
	}
	for _, p := range ports {
		if p.Name == port && (p.Protocol == corev1.ProtocolTCP || p.Protocol == "") {
			return strconv.Itoa(int(p.ContainerPort)), nil
		}
	}
	return "", permanent("port %s: the container has no TCP port of that name", port)
}

// client makes requests to pods.
type client struct {
	http http.Client
}

func newClient() *client {
	return &client{http.Client{
		// The node's proxy is no way to a pod. The certificate of a program in a pod names no address that is known before
		// the pod is; like the kubelet's probes, a request does not ask whom it is of.
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives: true,
		},
		// A pod must not send the node elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// do makes a request and wants a status of 200 to 299. The body, which may have no end, is not read.
func (c *client) do(ctx context.Context, scheme, host, port, method, path string) (err error) {
	u, err := url.Parse(scheme + "://" + net.JoinHostPort(host, port) + path)
	if err != nil {
		return permanent("not a URL")
	}
	request, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return permanent("not a request")
	}
	request.Header.Set("User-Agent", "orlop")
	answer, err := c.http.Do(request)
	if err != nil {
		var inner *url.Error
		if errors.As(err, &inner) {
			return inner.Err // without the URL, whose query may be anything
		}
		return err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("HTTP status %d", answer.StatusCode)
	}
	return nil
}
