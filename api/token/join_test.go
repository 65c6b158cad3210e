package token_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/token"
)

func goodJoin() token.JoinToken {
	return token.JoinToken{
		Zone: "east", ID: "0a1b", Secret: "c2VjcmV0LXNlY3JldA", Addresses: []string{"global.example.com:5685", "[2001:db8::1]:5685"},
		Pin: strings.Repeat("0f", 32),
	}
}

func TestJoinTokenRoundTrip(t *testing.T) {
	want := goodJoin()
	text, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, "cwj1.") {
		t.Errorf("%q does not say what it is", text)
	}
	got, err := token.ParseJoinToken(text + "\n") // as a file ends
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, shown := range []string{fmt.Sprint(want), fmt.Sprintf("%v %+v %#v", want, want, want)} {
		if strings.Contains(shown, want.Secret) {
			t.Errorf("%q shows the secret", shown)
		}
	}
}

func TestBadJoinTokensAreRefused(t *testing.T) {
	changed := func(change func(*token.JoinToken)) token.JoinToken {
		j := goodJoin()
		change(&j)
		return j
	}
	for want, j := range map[string]token.JoinToken{
		"zone":         changed(func(j *token.JoinToken) { j.Zone = "East_1" }),
		"id":           changed(func(j *token.JoinToken) { j.ID = "../x" }),
		"secret":       changed(func(j *token.JoinToken) { j.Secret = "" }),
		"addresses:":   changed(func(j *token.JoinToken) { j.Addresses = nil }),
		"addresses[0]": changed(func(j *token.JoinToken) { j.Addresses = []string{"global"} }),
		"addresses[1]": changed(func(j *token.JoinToken) { j.Addresses = []string{"a:1", "b\n:1"} }),
		"pin":          changed(func(j *token.JoinToken) { j.Pin = strings.Repeat("0F", 32) }),
	} {
		if _, err := j.Encode(); !errors.Is(err, token.ErrBadRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("encode: got %v, want a problem with %s", err, want)
		}
	}
	good, err := goodJoin().Encode()
	if err != nil {
		t.Fatal(err)
	}
	encode := func(json string) string { return "cwj1." + base64.RawURLEncoding.EncodeToString([]byte(json)) }
	for name, c := range map[string]struct{ text, want string }{
		"empty":         {"", "does not begin"},
		"a JWT":         {"eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "causeway zone connect"},
		"cut off":       {good[:len(good)-7], "cut off"},
		"not base64":    {"cwj1.!!", "cut off"},
		"later version": {encode(`{"v":2,"zone":"east"}`), "version 2"},
		"two values":    {encode(`{"v":1} {}`), "after its JSON"},
		"without pin":   {encode(`{"v":1,"zone":"east","id":"a","secret":"s","addresses":["g:1"]}`), "pin"},
		"too long":      {"cwj1." + strings.Repeat("A", token.MaxSize), "at most"},
	} {
		_, err := token.ParseJoinToken(c.text)
		if !errors.Is(err, token.ErrNotValid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	good, err := goodJoin().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("cwj1.")
	f.Add("cwj1." + base64.RawURLEncoding.EncodeToString([]byte(`{"v":1,"zone":"a","addresses":["x:1"]}`)))
	f.Fuzz(func(t *testing.T, text string) {
		j, err := token.ParseJoinToken(text)
		if err != nil {
			if !errors.Is(err, token.ErrNotValid) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		again, err := j.Encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if back, err := token.ParseJoinToken(again); err != nil || !cmp.Equal(j, back) {
			t.Errorf("%v became %v (%v)", j, back, err)
		}
	})
}
