package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/fsouza/fake-gcs-server/fakestorage"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"gocloud.dev/blob"
)

// TestS3 runs against a server that speaks S3's protocol.
func TestS3(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	service := gofakes3.New(backend).Server()
	// It does not keep Cache-Control: what was sent last is kept here.
	var cacheControl sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			cacheControl.Store(r.URL.Path, r.Header.Get("Cache-Control"))
		}
		service.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	credentials(t)
	testBucket(t, bucket{
		url: "s3://bucket?region=eu-central-1&use_path_style=true&prefix=log/&endpoint=" + url.QueryEscape(server.URL),
		get: func(t *testing.T, name string) (object, bool) {
			o, ok := get(t, server.URL+"/bucket/"+name)
			if sent, was := cacheControl.Load("/bucket/" + name); was {
				o.cacheControl = sent.(string)
			}
			return o, ok
		},
		list: func(t *testing.T) []string {
			list, err := backend.ListBucket("bucket", nil, gofakes3.ListBucketPage{})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, o := range list.Contents {
				names = append(names, o.Key)
			}
			return names
		},
	})
}

// credentials are what S3's driver finds, and nothing of the machine's.
func credentials(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", "none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
}

// get reads an object as a browser does.
func get(t *testing.T, url string) (object, bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return object{data, res.Header.Get("Content-Type"), res.Header.Get("Cache-Control"), res.Header.Get("Content-Encoding")},
		res.StatusCode == http.StatusOK
}

// TestGoogle runs against a server that speaks the protocol of Google Cloud
// Storage.
func TestGoogle(t *testing.T) {
	front := httptest.NewUnstartedServer(nil)
	host := front.Listener.Addr().String() // it has to know where it is
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, Writer: io.Discard,
		PublicHost: host, ExternalURL: "http://" + host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	front.Config.Handler = server.HTTPHandler()
	front.Start()
	t.Cleanup(front.Close)
	server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: "bucket"})
	t.Setenv("STORAGE_EMULATOR_HOST", host)
	testBucket(t, bucket{
		url: "gs://bucket?prefix=log/",
		get: func(t *testing.T, name string) (object, bool) {
			o, err := server.GetObject("bucket", name)
			return object{o.Content, o.ContentType, o.CacheControl, o.ContentEncoding}, err == nil
		},
		list: func(t *testing.T) []string {
			objects, err := server.ListObjectsWithOptionsPaginated("bucket", fakestorage.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, o := range objects.Objects {
				names = append(names, o.Name)
			}
			return names
		},
	})
}

// TestMissingBucket wants an error that names the bucket before anything is
// served.
func TestMissingBucket(t *testing.T) {
	server := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	t.Cleanup(server.Close)
	credentials(t)
	dir, _ := newLog(t, "example.com/log")
	_, stop := serve(t, dir, t.TempDir()) // publishes
	stop()
	_, err := logserver(t.Context(), io.Discard, "export", "--dir", dir, "--to",
		"s3://nowhere?region=eu-central-1&use_path_style=true&endpoint="+url.QueryEscape(server.URL))
	if err == nil || !strings.Contains(err.Error(), "nowhere") || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("exporting to a bucket that does not exist: %v", err)
	}
}

// TestSchemes holds that the drivers which the program promises are linked.
func TestSchemes(t *testing.T) {
	for _, scheme := range []string{"s3", "gs", "azblob"} {
		if !blob.DefaultURLMux().ValidBucketScheme(scheme) {
			t.Errorf("no driver knows %s://", scheme)
		}
	}
	if _, err := blob.OpenBucket(context.Background(), "swift://bucket"); err == nil {
		t.Error("a scheme that nobody knows opens")
	}
}
