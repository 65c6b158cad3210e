package embedded

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/storetest"
)

// childVariable makes this test binary a writer on the store it names.
const childVariable = "CAUSEWAY_TEST_EMBEDDED_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		fmt.Println(writeForEver(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForEver commits from four writers and prints the id of each batch once it is acknowledged.
func writeForEver(path string) error {
	s, err := Open(context.Background(), Config{Path: path, Holder: "the child"})
	if err != nil {
		return err
	}
	fmt.Println("open")
	failed := make(chan error)
	var out sync.Mutex
	for w := range 4 {
		go func() {
			for {
				b := storetest.Batch(storetest.Put(fmt.Sprint("object ", w), strings.Repeat("x", 500), store.ExpectAny), storetest.Put("count", "", store.ExpectAny))
				c, err := s.Commit(context.Background(), b)
				if err != nil {
					failed <- err
					return
				}
				out.Lock()
				fmt.Printf("%x %d\n", c.ID, c.Position.Revision)
				out.Unlock()
			}
		}()
	}
	return <-failed
}

// child starts a writer and gives its lines.
func child(t *testing.T, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("the child says %q", lines.Text())
	}
	return cmd, lines
}

// TestKilled kills a writing process at any moment, again and again: what it acknowledged is there, once.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	acknowledged := make(map[store.BatchID]uint64)
	for range 25 {
		cmd, lines := child(t, path)
		for n, enough := 0, 1+rand.IntN(60); lines.Scan(); n++ {
			if n == enough {
				cmd.Process.Signal(syscall.SIGKILL)
			}
			var id string
			var revision uint64
			if _, err := fmt.Sscanf(lines.Text(), "%s %d", &id, &revision); err != nil {
				continue // the kill cut a line
			}
			if raw, err := hex.DecodeString(id); err == nil && len(raw) == 16 {
				acknowledged[store.BatchID(raw)] = revision
			}
		}
		cmd.Wait()
	}
	s := open(t, path)
	objects, at := storetest.Objects(t, s)
	history := storetest.Follow(t, s, store.Position{}).Until(t, int(at.Revision))
	storetest.Consecutive(t, store.Position{}, history)
	stored := make(map[store.BatchID]uint64)
	for _, c := range history {
		stored[c.ID] = c.Position.Revision
	}
	for id, revision := range acknowledged {
		if stored[id] != revision {
			t.Fatalf("the acknowledged batch of revision %d is at %d", revision, stored[id])
		}
	}
	if objects[storetest.Key("count")].Version != at.Revision || len(acknowledged) < 100 {
		t.Fatalf("%d writes of the shared object by %d batches, %d acknowledged", objects[storetest.Key("count")].Version, at.Revision, len(acknowledged))
	}
	t.Logf("%d acknowledged, %d stored", len(acknowledged), len(history))
}

func TestSecondProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	cmd, _ := child(t, path)
	_, err := Open(context.Background(), Config{Path: path})
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d (the child)", cmd.Process.Pid)) {
		t.Fatalf("got %v, want a refusal that names the child %d", err, cmd.Process.Pid)
	}
	cmd.Process.Kill()
	cmd.Wait()
	s := open(t, path)
	if _, err := Open(context.Background(), Config{Path: path}); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("a second store in one process: %v", err)
	}
	storetest.Commit(t, s, storetest.Put("a", "", 0))
}

// TestDiskFull fills a small file system under the store. Only root may mount one; TestFileFull does without.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := mount(dir); err != nil {
		t.Skipf("no small file system to fill: %v", err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s := open(t, filepath.Join(dir, "store.db"))
	filler := filepath.Join(dir, "filler")
	fill := func() error {
		f, err := os.Create(filler)
		if err != nil {
			return err
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 1<<12))
		}
		return err
	}
	fullAndFree(t, s, func() {
		if err := fill(); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("fill the disk: %v", err)
		}
	}, func() {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	})
}

// TestFileFull limits the size of the file, and lifts the limit.
func TestFileFull(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	pragma := func(q string) {
		if _, err := s.db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	fullAndFree(t, s, func() { pragma("PRAGMA max_page_count = 1") }, func() { pragma("PRAGMA max_page_count = 1000000") })
}

// fullAndFree proves that a store without space refuses writes, keeps what it acknowledged and answers reads, and that it
// goes on when there is space again.
func fullAndFree(t *testing.T, s *Store, full, free func()) {
	t.Helper()
	f := storetest.Follow(t, s, store.Position{})
	acknowledged := 0
	put := func() error {
		_, err := s.Commit(context.Background(), storetest.Batch(storetest.Put(fmt.Sprint(acknowledged), strings.Repeat("x", 20_000), store.ExpectAbsent)))
		if err == nil {
			acknowledged++
		}
		return err
	}
	for round := range 3 {
		for range 5 {
			if err := put(); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		full()
		var err error
		for n := 0; err == nil && n < 10_000; n++ {
			err = put()
		}
		if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "disk is full") {
			t.Fatalf("round %d: got %v, want unavailable because the disk is full", round, err)
		}
		if err := s.Observe(context.Background(), store.Observation{Key: "k", Data: make([]byte, 1<<20)}); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("round %d: observe: %v", round, err)
		}
		if objects, at := storetest.Objects(t, s); len(objects) != acknowledged || at.Revision != uint64(acknowledged) {
			t.Fatalf("round %d: %d objects at revision %d, %d acknowledged", round, len(objects), at.Revision, acknowledged)
		}
		free()
	}
	if err := put(); err != nil {
		t.Fatalf("after there was space again: %v", err)
	}
	storetest.Consecutive(t, store.Position{}, f.Until(t, acknowledged))
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a directory?", "store #1%20.db")
	s := open(t, path)
	storetest.Commit(t, s, storetest.Put("a", "1", 0), storetest.Put("b", "2", 0))
	f, err := s.Acquire(context.Background(), "writer", "me", 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	want, at := storetest.Objects(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the file is not where it was named: %v", err)
	}
	s = open(t, path)
	got, now := storetest.Objects(t, s)
	if fmt.Sprint(got) != fmt.Sprint(want) || now != at {
		t.Fatalf("got %v at %s, want %v at %s", got, now, want, at)
	}
	if again, err := s.Acquire(context.Background(), "writer", "me", 1<<40); err != nil || again != f {
		t.Fatalf("the lease is %v, %v", again, err)
	}
}

func TestSettings(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "locking_mode": "exclusive"} {
		var got string
		if err := s.db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, want %q (%v)", pragma, got, want, err)
		}
	}
}

// TestUnusableFiles opens what is not, or no more, a store of this version.
func TestUnusableFiles(t *testing.T) {
	statement := func(q string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			s := open(t, path)
			storetest.Commit(t, s, storetest.Put("a", strings.Repeat("x", 100_000), 0))
			if _, err := s.db.Exec(q); err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
	}
	tests := map[string]struct {
		make func(t *testing.T, path string)
		want string
		is   error
	}{
		"of the future":      {statement("PRAGMA user_version = 2"), "use the newer version", store.ErrSchema},
		"of another program": {statement("PRAGMA application_id = 7"), "another program", nil},
		"no database": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "no SQLite file", nil},
		"damaged": {func(t *testing.T, path string) {
			statement("SELECT 1")(t, path)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte(strings.Repeat("\xff", 4096*8)), 4096*2); err != nil {
				t.Fatal(err)
			}
		}, "restore it from a backup", nil},
		"a directory": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			tt.make(t, path)
			s, err := Open(context.Background(), Config{Path: path})
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("got %v, want an error that says %q", err, tt.want)
			}
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("%v does not name the file", err)
			}
		})
	}
}
