package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// tokensKey is under which the kubelet brings the pod's tokens: in the request's secrets where the CSIDriver object says
// serviceAccountTokenInSecrets (Kubernetes v1.35), in the volume context otherwise.
const tokensKey = kubeletPrefix + "serviceAccount.tokens"

// bearer is a token's text. It prints as [redacted].
type bearer string

var _ fmt.Formatter = bearer("")

// Format writes [redacted], whatever the verb.
func (bearer) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "[redacted]") }

// token is a pod's token and when it expires. What a pod's token may is for the API server to say.
type token struct {
	bearer  bearer
	expires time.Time
}

var errNoToken = errors.New("the kubelet brought no ServiceAccount token: the CSIDriver object " + DriverName +
	" must have a tokenRequests entry of audience \"\"; apply deploy/base/csidriver-config.yaml")

// parseTokens returns the token for the API server's own audience. No error holds a part of the text.
func parseTokens(text string) (token, error) {
	if text == "" {
		return token{}, errNoToken
	}
	var tokens map[string]struct {
		Token               string    `json:"token"`
		ExpirationTimestamp time.Time `json:"expirationTimestamp"`
	}
	if err := json.Unmarshal([]byte(text), &tokens); err != nil {
		return token{}, fmt.Errorf("%s is no JSON document of tokens", tokensKey)
	}
	t := tokens[""]
	if t.Token == "" {
		return token{}, errNoToken
	}
	return token{bearer(t.Token), t.ExpirationTimestamp}, nil
}

// refusedFor is for how long a token that the API server refused is not used: what was wrong may have been the server.
const refusedFor = 10 * time.Second

// tokens are those of one ServiceAccount, one of each volume: they are bound to pods, and die with them. Its methods may
// be called from several goroutines.
type tokens struct {
	now func() time.Time

	mu       sync.Mutex
	ofVolume map[string]token
	refused  map[bearer]time.Time
}

func newTokens(now func() time.Time) *tokens {
	return &tokens{now: now, ofVolume: map[string]token{}, refused: map[bearer]time.Time{}}
}

func (t *tokens) set(volume string, of token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ofVolume[volume] = of
	delete(t.refused, of.bearer)
}

func (t *tokens) drop(volume string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.refused, t.ofVolume[volume].bearer)
	delete(t.ofVolume, volume)
}

func (t *tokens) refuse(b bearer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused[b] = t.now()
}

// candidates are the tokens to try, that with most of its life left first. One that has expired by this machine's clock
// comes with the last.
func (t *tokens) candidates() []bearer {
	t.mu.Lock()
	defer t.mu.Unlock()
	var usable []token
	for _, of := range t.ofVolume {
		if since, ok := t.refused[of.bearer]; ok && t.now().Sub(since) < refusedFor {
			continue
		}
		usable = append(usable, of)
	}
	slices.SortFunc(usable, func(a, b token) int { return b.expires.Compare(a.expires) })
	list := make([]bearer, 0, len(usable))
	for _, of := range usable {
		if !slices.Contains(list, of.bearer) {
			list = append(list, of.bearer)
		}
	}
	return list
}

var errNoValidToken = errors.New("no valid token of the ServiceAccount is left; the kubelet brings another within two minutes")

// transport sends each request with the best token there is, and with the next best when that is refused.
type transport struct {
	next   http.RoundTripper
	tokens *tokens
}

// RoundTrip implements http.RoundTripper, for requests without a body: the driver only reads.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	candidates := t.tokens.candidates()
	if len(candidates) == 0 {
		return nil, errNoValidToken
	}
	for i, b := range candidates {
		r := r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+string(b))
		response, err := t.next.RoundTrip(r)
		if err != nil || response.StatusCode != http.StatusUnauthorized {
			return response, err
		}
		t.tokens.refuse(b)
		if i == len(candidates)-1 {
			return response, nil
		}
		// What it says is known; the connection is used again where its end is not far.
		_, _ = io.CopyN(io.Discard, response.Body, 4<<10)
		if err := response.Body.Close(); err != nil {
			return nil, err
		}
	}
	return nil, errNoValidToken
}
