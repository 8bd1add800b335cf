package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestConfigFlows takes the ways by which Kubernetes' documentation teaches to configure a pod, each as its story, on one
// cluster: ConfigMaps and Secrets made by kubectl from everything they can be made from, used in every way, changed by
// every command, and images pulled with them.
func TestConfigFlows(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	c.stories("Flows", func(c *testCluster) {
		c.story("Literals", literalsFlow)
		c.story("Files", filesFlow)
		c.story("Mixed", mixedFlow)
		c.story("Credentials", credentialsFlow)
		c.story("Typed", typedSecretsFlow)
		c.story("Refusals", configRefusalsFlow)
		c.story("Edits", editsFlow)
		c.story("PrivateImages", privateImagesFlow)
	})
}

// files makes a directory with files, named by paths within it.
func (c *testCluster) files(contents map[string]string) (dir string) {
	c.t.Helper()
	dir = c.t.TempDir()
	for name, content := range contents {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			c.t.Fatal(err)
		}
	}
	return dir
}

// says compares what scripts in a pod's container print with what they should.
func (c *testCluster) says(pod string, want map[string]string) {
	c.t.Helper()
	for script, text := range want {
		if got := c.exec(pod, script); got != text {
			c.t.Errorf("in %s, %s says %q, want %q", pod, script, got, text)
		}
	}
}

// holds compares the keys and values of an object's field with what they should be.
func holds[V string | []byte](c *testCluster, object string, got map[string]V, want map[string]string) {
	c.t.Helper()
	for key, value := range want {
		if v, there := got[key]; !there || string(v) != value {
			c.t.Errorf("%s holds %q under %s (there: %t), want %q", object, v, key, there, value)
		}
	}
	if len(got) != len(want) {
		c.t.Errorf("%s holds %d keys, want %d: %q", object, len(got), len(want), got)
	}
}

const (
	gameProperties = "enemies=aliens\nlives=3\nenemies.cheat=true\n"
	uiProperties   = "color.good=purple\ncolor.bad=yellow\nallow.textmode=true\n"
)

// literalsFlow: values given on the command line reach a container as variables, one by one, all at once and in its
// arguments.
func literalsFlow(c *testCluster) {
	c.kubectl("create", "configmap", "special-config", "--from-literal=special.how=very", "--from-literal=special.type=charm")
	c.kubectl("create", "configmap", "env-config", "--from-literal=log_level=INFO", "--from-literal=EMPTY=", "--from-literal=EQUALS=a=b")
	holds(c, "special-config", read[corev1.ConfigMap](c, "configmap/special-config").Data,
		map[string]string{"special.how": "very", "special.type": "charm"})
	c.apply(strings.Replace(sleeper("test", `
    env:
    - {name: SPECIAL_LEVEL_KEY, valueFrom: {configMapKeyRef: {name: special-config, key: special.how}}}
    - {name: SPECIAL_TYPE_KEY, valueFrom: {configMapKeyRef: {name: special-config, key: special.type}}}
    - {name: LOG_LEVEL, valueFrom: {configMapKeyRef: {name: env-config, key: log_level}}}
    - {name: ABSENT, valueFrom: {configMapKeyRef: {name: env-config, key: absent, optional: true}}}
    envFrom:
    - configMapRef: {name: env-config}
    - {prefix: SPECIAL_, configMapRef: {name: special-config}}
    - configMapRef: {name: nonesuch, optional: true}
    args: [sh, $(SPECIAL_LEVEL_KEY), $(SPECIAL_TYPE_KEY)]`, ""), "while :; do", "echo $1 $2; while :; do", 1))
	c.waitReady("test")
	c.says("test", map[string]string{
		"echo $SPECIAL_LEVEL_KEY $SPECIAL_TYPE_KEY $LOG_LEVEL": "very charm INFO\n",
		"echo $log_level,$EMPTY,$EQUALS,${ABSENT-unset}":       "INFO,,a=b,unset\n",
		// Keys that no shell takes for names are variables all the same.
		"tr '\\0' '\\n' < /proc/1/environ | grep '^SPECIAL_special' | sort": "SPECIAL_special.how=very\nSPECIAL_special.type=charm\n",
	})
	if got := c.kubectl("logs", "test"); got != "very charm\n" {
		c.t.Errorf("the arguments are %q", got)
	}
}

// filesFlow: files and a folder become keys, and keys become files again: all, some under other names and modes, one alone
// over a directory of the image's, and bytes that are no text.
func filesFlow(c *testCluster) {
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	dir := c.files(map[string]string{
		"configure/game.properties": gameProperties, "configure/ui.properties": uiProperties,
		"configure/deeper/ignored": "a folder in the folder", "favicon.ico": string(binary),
	})
	c.kubectl("create", "configmap", "game-config", "--from-file="+dir+"/configure/")
	c.kubectl("create", "configmap", "game-config-2", "--from-file="+dir+"/configure/game.properties",
		"--from-file="+dir+"/configure/ui.properties")
	c.kubectl("create", "configmap", "game-config-3", "--from-file=game-special-key="+dir+"/configure/game.properties")
	c.kubectl("create", "configmap", "binary", "--from-file="+dir+"/favicon.ico")
	both := map[string]string{"game.properties": gameProperties, "ui.properties": uiProperties}
	holds(c, "game-config", read[corev1.ConfigMap](c, "configmap/game-config").Data, both)
	holds(c, "game-config-2", read[corev1.ConfigMap](c, "configmap/game-config-2").Data, both)
	holds(c, "game-config-3", read[corev1.ConfigMap](c, "configmap/game-config-3").Data,
		map[string]string{"game-special-key": gameProperties})
	icon := read[corev1.ConfigMap](c, "configmap/binary")
	holds(c, "binary", icon.BinaryData, map[string]string{"favicon.ico": string(binary)})
	holds(c, "binary", icon.Data, nil)

	c.apply(sleeper("game", `
    volumeMounts:
    - {name: all, mountPath: /etc/config}
    - {name: some, mountPath: /etc/some}
    - {name: modes, mountPath: /etc/modes}
    - {name: binary, mountPath: /etc/binary}
    - {name: all, mountPath: /etc/group.d/game.properties, subPath: game.properties}
    - {name: binary, mountPath: /root/favicon.ico, subPath: favicon.ico}`, `
  volumes:
  - {name: all, configMap: {name: game-config}}
  - {name: some, configMap: {name: game-config, items: [{key: ui.properties, path: deep/down/ui}, {key: game.properties, path: game, mode: 0400}]}}
  - {name: modes, configMap: {name: game-config-3, defaultMode: 0440}}
  - {name: binary, configMap: {name: binary, defaultMode: 0444}}`))
	c.waitReady("game")
	c.says("game", map[string]string{
		"ls /etc/config":                    "game.properties\nui.properties\n",
		"cat /etc/config/game.properties":   gameProperties,
		"cat /etc/some/deep/down/ui":        uiProperties,
		"cd /etc/some; ls; stat -Lc %a *":   "deep\ngame\n755\n400\n",
		"cd /etc/modes; stat -Lc '%a %n' *": "440 game-special-key\n",
		"stat -Lc %a /etc/config/*":         "644\n644\n",
		"cat /etc/group.d/game.properties":  gameProperties,
		"ls /etc/group.d":                   "game.properties\n",
		"xxd -p /etc/binary/favicon.ico; cmp /etc/binary/favicon.ico /root/favicon.ico && echo same": hexLines(binary) + "same\n",
	})
	c.execFails("Read-only file system", "game", "echo mine > /etc/config/game.properties")
}

// hexLines is what xxd -p prints.
func hexLines(data []byte) string {
	var b strings.Builder
	for len(data) > 0 {
		n := min(30, len(data))
		fmt.Fprintf(&b, "%x\n", data[:n])
		data = data[n:]
	}
	return b.String()
}

// mixedFlow: files of variables, several of them, and literals mixed with files and a folder.
func mixedFlow(c *testCluster) {
	dir := c.files(map[string]string{
		"game-env-file.properties": "enemies=aliens\nlives=3\nallowed=\"true\"\n\n# This line, as the empty one above, is none.\n",
		"ui-env-file.properties":   "color=purple\ntextmode=true\nhow=fairlyNice\n",
		"folder/game.properties":   gameProperties, "one": "1\n",
		"from-environment": "HOME_OF_TEST\n",
	})
	c.kubectl("create", "configmap", "game-env", "--from-env-file="+dir+"/game-env-file.properties")
	c.kubectl("create", "configmap", "multi-env", "--from-env-file="+dir+"/game-env-file.properties",
		"--from-env-file="+dir+"/ui-env-file.properties")
	c.kubectl("create", "configmap", "mixed", "--from-literal=literal=yes", "--from-file="+dir+"/folder",
		"--from-file=two="+dir+"/one", "--from-file="+dir+"/one")
	game := map[string]string{"enemies": "aliens", "lives": "3", "allowed": `"true"`}
	holds(c, "game-env", read[corev1.ConfigMap](c, "configmap/game-env").Data, game)
	holds(c, "multi-env", read[corev1.ConfigMap](c, "configmap/multi-env").Data, map[string]string{"enemies": "aliens",
		"lives": "3", "allowed": `"true"`, "color": "purple", "textmode": "true", "how": "fairlyNice"})
	holds(c, "mixed", read[corev1.ConfigMap](c, "configmap/mixed").Data,
		map[string]string{"literal": "yes", "game.properties": gameProperties, "two": "1\n", "one": "1\n"})

	// A line without a value takes it from kubectl's own environment.
	cmd := c.command(c.t.Context(), c.inNamespace("create", "configmap", "inherited", "--from-env-file="+dir+"/from-environment")...)
	cmd.Env = append(cmd.Env, "HOME_OF_TEST=/here")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("create configmap: %v\n%s", err, out)
	}
	c.apply(sleeper("mixed", `
    envFrom: [{configMapRef: {name: multi-env}}, {configMapRef: {name: inherited}}]
    volumeMounts: [{name: v, mountPath: /v}]`, `
  volumes:
  - name: v
    projected:
      defaultMode: 0400
      sources:
      - configMap: {name: mixed}
      - configMap: {name: game-env, items: [{key: lives, path: game/lives}]}`))
	c.waitReady("mixed")
	c.says("mixed", map[string]string{
		"echo $enemies $lives $allowed $color $how $HOME_OF_TEST": "aliens 3 \"true\" purple fairlyNice /here\n",
		"cd /v; ls; cat one two literal game/lives":               "game\ngame.properties\nliteral\none\ntwo\n1\n1\nyes3",
		"stat -Lc %a /v/one /v/game/lives":                        "400\n400\n",
	})
}

// configRefusalsFlow: what cannot become a ConfigMap or Secret is refused with the reason, and leaves nothing.
func configRefusalsFlow(c *testCluster) {
	dir := c.files(map[string]string{
		"bad key": "a name with a space", "vars": "A=1\n", "other": "A=2\n", "big": strings.Repeat("x", 1<<20+1),
	})
	for _, kind := range [][]string{{"configmap"}, {"secret", "generic"}} {
		create := append([]string{"create"}, kind...)
		for _, x := range []struct {
			says string
			args []string
		}{
			{"from-env-file cannot be combined", []string{"--from-env-file=" + dir + "/vars", "--from-literal=a=b"}},
			{"bad key", []string{"--from-file=" + dir + "/bad key"}},
			{"already exists", []string{"--from-env-file=" + dir + "/vars", "--from-env-file=" + dir + "/other"}},
			{"no such file", []string{"--from-file=" + dir + "/nonesuch"}},
			{"expected key=value", []string{"--from-literal=nothing"}},
			{"may not be more than 1048576 bytes", []string{"--from-file=" + dir + "/big"}},
		} {
			c.refused([]string{x.says}, c.inNamespace(append(append(create, "refused"), x.args...)...)...)
		}
		c.refused([]string{"NotFound"}, c.inNamespace("get", kind[0], "refused")...)
	}
	// A pod that refers to what is not there says so, and starts as soon as it is.
	c.apply(sleeper("lacking", "env: [{name: A, valueFrom: {configMapKeyRef: {name: late, key: a}}}]", "") +
		sleeper("keyless", "env: [{name: A, valueFrom: {secretKeyRef: {name: present, key: a}}}]", ""))
	c.kubectl("create", "secret", "generic", "present", "--from-literal=b=2")
	c.eventuallySays([]string{`"late" not found`}, "describe", "pod/lacking")
	c.eventuallySays([]string{"couldn't find key a in Secret " + c.ns + "/present"}, "describe", "pod/keyless")
	c.kubectl("create", "configmap", "late", "--from-literal=a=1")
	c.kubectl("patch", "secret", "present", "-p", `{"stringData":{"a":"2"}}`)
	c.waitReady("lacking")
	c.waitReady("keyless")
	c.says("lacking", map[string]string{"echo $A": "1\n"})
	c.says("keyless", map[string]string{"echo $A": "2\n"})
}

// editsFlow: whatever command changes an object, a running pod has it in its files.
func editsFlow(c *testCluster) {
	dir := c.files(map[string]string{"game.properties": gameProperties, "ui.properties": uiProperties})
	fromFiles := []string{"create", "configmap", "game-config", "--from-file=" + dir}
	c.kubectl(fromFiles...)
	c.kubectl("create", "secret", "generic", "creds", "--from-literal=user=admin", "--from-literal=password=t0p")
	c.apply(sleeper("live", "volumeMounts: [{name: v, mountPath: /v}, {name: s, mountPath: /s}]",
		"volumes: [{name: v, configMap: {name: game-config}}, {name: s, secret: {secretName: creds, defaultMode: 0400}}]"))
	c.waitReady("live")

	for i := range 3 {
		text := fmt.Sprintf("lives=%d", i)
		if err := os.WriteFile(filepath.Join(dir, "game.properties"), []byte(text), 0o600); err != nil {
			c.t.Fatal(err)
		}
		manifest := c.kubectl(append(fromFiles, "--dry-run=client", "-o", "yaml")...)
		c.apply(manifest)
		c.fileIs("live", "/v/game.properties", text)
	}
	c.kubectl("patch", "configmap", "game-config", "--type=merge", "-p", `{"data":{"ui.properties":null,"added":"one"}}`)
	c.fileIs("live", "/v/added", "one")
	c.fileIs("live", "/v/ui.properties", "absent")
	c.kubectl("patch", "configmap", "game-config", "--type=json",
		"-p", `[{"op":"replace","path":"/data/added","value":"two"}]`)
	c.fileIs("live", "/v/added", "two")

	c.edit("configmap/game-config", "s/added: two/added: three/")
	c.fileIs("live", "/v/added", "three")
	c.apply(c.kubectl("create", "secret", "generic", "creds", "--from-literal=user=admin", "--from-literal=password=s3cret",
		"--dry-run=client", "-o", "yaml"))
	c.fileIs("live", "/s/password", "s3cret")
	c.edit("secret/creds", "s/password: .*/password: ZWRpdGVk/") // "edited"
	c.fileIs("live", "/s/password", "edited")
	c.says("live", map[string]string{"stat -Lc %a /s/password /s/user": "400\n400\n", "cat /s/user": "admin"})

	// kubectl replace and the server's side of apply are ways of their own.
	replacement := filepath.Join(dir, "replacement.yaml")
	manifest := c.kubectl("create", "configmap", "game-config", "--from-literal=added=four", "--dry-run=client", "-o", "yaml")
	if err := os.WriteFile(replacement, []byte(manifest), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.kubectl("replace", "-f", replacement)
	c.fileIs("live", "/v/added", "four")
	c.fileIs("live", "/v/game.properties", "absent")
	if err := os.WriteFile(replacement, bytes.ReplaceAll([]byte(manifest), []byte("four"), []byte("five")), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.kubectl("apply", "--server-side", "--force-conflicts", "-f", replacement)
	c.fileIs("live", "/v/added", "five")

	c.kubectl("patch", "configmap", "game-config", "-p", `{"immutable":true}`)
	c.refused([]string{"immutable"}, c.inNamespace("patch", "configmap", "game-config", "-p", `{"data":{"added":"six"}}`)...)
	c.says("live", map[string]string{"cat /v/added": "five"})
	if restarts := c.get("pod/live", ".status.containerStatuses[0].restartCount"); restarts != "0" {
		c.t.Errorf("the pod was restarted %s times", restarts)
	}
}

// edit runs kubectl edit with an editor that carries out a command of sed's.
func (c *testCluster) edit(object, sed string) {
	c.t.Helper()
	editor := filepath.Join(c.t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i '"+sed+"' \"$1\"\n"), 0o700); err != nil { //nolint:gosec // it is to be run
		c.t.Fatal(err)
	}
	cmd := c.command(c.t.Context(), c.inNamespace("edit", object)...)
	cmd.Env = append(cmd.Env, "EDITOR="+editor, "KUBE_EDITOR=")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "edited") {
		c.t.Fatalf("kubectl edit %s: %v\n%s", object, err, out)
	}
}
