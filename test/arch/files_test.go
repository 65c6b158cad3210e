package arch_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tracked lists the files of the repository.
func tracked(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		need(t, "a git checkout")
	}
	var files []string
	for f := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		if _, err := os.Stat(filepath.Join(root, f)); err == nil { // a file may be deleted and not yet committed
			files = append(files, f)
		}
	}
	return files
}

// topFolders is the house: nothing else stands at the top.
var topFolders = []string{"global-cp", "zone-cp", "dataplane", "api", "store", "gui", "deploy", "test", ".ci"}

func TestTopFolders(t *testing.T) {
	for _, f := range tracked(t) {
		top, _, nested := strings.Cut(f, "/")
		if nested && !slices.Contains(topFolders, top) {
			t.Errorf("%s: no other folder stands at the top than %s", f, strings.Join(topFolders, ", "))
		}
	}
}

// forbidden is what ties a file to one machine or one way of getting modules. The words are put together here
// so that this file does not contain them.
var forbidden = []struct {
	pattern *regexp.Regexp
	why     string
}{
	{regexp.MustCompile(`(^|[^\w.])/` + `(work/(main|shared|\.)|root/(go\b|\.)|home/\w+/)`), "a path of one machine"},
	{regexp.MustCompile(`(^|[^\w.$}])/` + `tmp/\w`), "a path of one machine; tests use t.TempDir"},
	{regexp.MustCompile(`proxy\.` + `golang\.org|pypi\.` + `org|registry\.` + `npmjs\.org|files\.` + `pythonhosted`), "the host of a package registry"},
	{regexp.MustCompile(`\bTO` + `DO\b|\bFIX` + `ME\b|\bX` + `XX\b`), "a note for later; do it, or write it down where it is planned"},
	{regexp.MustCompile(`(?i)\b(chat` + `gpt|cl` + `aude|open` + `ai|anth` + `ropic|language mo` + `del)\b`), "not about Causeway"},
	{regexp.MustCompile(`(?i)\bissue #?` + `\d+\b`), "a number that a reader cannot look up"},
}

func TestFilesSpeakOfCausewayAlone(t *testing.T) {
	for _, f := range tracked(t) {
		if slices.Contains([]string{".sum", ".mod", ".png", ".ico"}, filepath.Ext(f)) || filepath.Base(f) == "LICENSE" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Error(err)
			continue
		}
		for n, line := range bytes.Split(data, []byte("\n")) {
			for _, w := range forbidden {
				if m := w.pattern.Find(line); m != nil {
					t.Errorf("%s:%d: %q is %s", f, n+1, m, w.why)
				}
			}
		}
	}
}

func TestForbiddenWordsAreFound(t *testing.T) {
	for _, s := range []string{"dir = \"/" + "root/go/x\"", "see /" + "tmp/foo", "https://proxy." + "golang.org", "// TO" + "DO: later", "fixes issue #" + "12"} {
		found := false
		for _, w := range forbidden {
			found = found || w.pattern.MatchString(s)
		}
		if !found {
			t.Errorf("%q is not found", s)
		}
	}
	for _, s := range []string{"$HOME/work/x", "network/root", "an issue of trust", "${TMPDIR:-/" + "tmp}/"} {
		for _, w := range forbidden {
			if w.pattern.MatchString(s) {
				t.Errorf("%q is taken for %s", s, w.why)
			}
		}
	}
}

func TestReadmeHasTheSetUp(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	readme := string(data)
	for _, want := range []string{"make build", "make test", "causeway envoy fetch", "causeway run zone", "causeway run dataplane", "causeway apply"} {
		if !strings.Contains(readme, want) {
			t.Errorf("README.md does not show %q", want)
		}
	}
	// The code map names every package, so that nobody finds one by accident.
	for _, p := range packages(t) {
		if p.path != "" && len(p.GoFiles) > 0 && !inCodeMap(readme, p.path) {
			t.Errorf("README.md's code map does not name %s", p.path)
		}
	}
}

// inCodeMap accepts a package under its own path, or one level below a folder that is described as a whole.
func inCodeMap(readme, path string) bool {
	for dir := path; dir != "."; dir = filepath.Dir(dir) {
		if strings.Contains(readme, "`"+dir+"`") || dir != path && strings.Contains(readme, "`"+dir+"/*`") {
			return dir == path || strings.Contains(readme, "`"+dir+"/*`")
		}
	}
	return false
}

func TestGeneratedFilesAreFresh(t *testing.T) {
	protoc, err := exec.LookPath("protoc")
	if err != nil {
		need(t, "protoc (package protobuf-compiler)")
	}
	var protos []string
	for _, f := range tracked(t) {
		if filepath.Ext(f) == ".proto" {
			protos = append(protos, f)
		}
	}
	if len(protos) == 0 {
		t.Fatal("there is no .proto file; remove this test")
	}
	out := t.TempDir()
	for _, f := range protos {
		args := []string{
			"-I", filepath.Join(root, filepath.Dir(f)), "--go_out=" + out, "--go_opt=paths=source_relative",
			"--go-grpc_out=" + out, "--go-grpc_opt=paths=source_relative",
		}
		for _, plugin := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
			args = append(args, "--plugin="+plugin+"="+tool(t, plugin))
		}
		if b, err := exec.Command(protoc, append(args, filepath.Base(f))...).CombinedOutput(); err != nil {
			t.Fatalf("protoc %s: %v\n%s", f, err, b)
		}
		base := strings.TrimSuffix(filepath.Base(f), ".proto")
		for _, name := range []string{base + ".pb.go", base + "_grpc.pb.go"} {
			committed := filepath.Join(root, filepath.Dir(f), name)
			if err := sameCode(committed, filepath.Join(out, name)); err != nil {
				t.Errorf("%s is not what %s gives: %v; run make generate", filepath.Join(filepath.Dir(f), name), f, err)
			}
		}
	}
}

// tool is the path of a pinned tool, built if needed.
func tool(t *testing.T, name string) string {
	t.Helper()
	cmd := exec.Command("go", "tool", "-modfile="+filepath.Join("test", "tools.mod"), "-n", name)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go tool %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// versionLine is where generators write their own versions, which may differ between machines.
var versionLine = regexp.MustCompile(`(?m)^// (- |\t)?protoc.*$`)

func sameCode(a, b string) error {
	x, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(versionLine.ReplaceAll(x, nil), versionLine.ReplaceAll(y, nil)) {
		return fmt.Errorf("they differ")
	}
	return nil
}
