// Command reference is containerd's own layer code behind a command line: the
// yardstick of the benchmarks, and the judge of the tests that want the same bytes.
//
//	reference [-gzip] [-digest] [-o FILE] diff-overlay BASE UPPER
//	reference [-gzip] [-digest] [-o FILE] diff-walk BASE MERGED
//	reference apply DIR                            < TAR
//	reference apply-overlay DIR [PARENT...]        < TAR
//
// diff-overlay writes what changed in the overlay upper directory UPPER over the
// directory BASE ("" for none) as a layer tar; diff-walk compares two whole trees.
// apply changes DIR in place as the merged tree; apply-overlay fills DIR as one
// layer's directory with whiteouts in overlay form, PARENTs nearest first. Both take
// the tar plain, gzip or zstd.
//
// Nothing here is the project's own: the calls are those of containerd's
// plugins/diff and core/diff/apply, so that the numbers are containerd's numbers.
// With -digest a diff also hashes what it writes, as containerd's differs do on the
// way into the content store. When done, one JSON object goes to standard error.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/continuity/fs"
)

// report is what one run tells.
type report struct {
	Operation string  `json:"operation"`
	Bytes     int64   `json:"bytes"`                // of the tar, uncompressed
	Written   int64   `json:"written,omitempty"`    // of the blob, as written
	DiffID    string  `json:"diff_id,omitempty"`    // of the uncompressed tar
	Digest    string  `json:"digest,omitempty"`     // of the blob
	Seconds   float64 `json:"seconds"`              // wall clock
	CPU       float64 `json:"cpu_seconds"`          // user and system, all threads
	Peak      int64   `json:"peak_resident_memory"` // bytes
}

// meter counts what passes, and hashes it when it has a hash.
type meter struct {
	next io.Writer
	hash hash.Hash
	n    int64
}

func newMeter(next io.Writer, hashing bool) *meter {
	m := &meter{next: next}
	if hashing {
		m.hash = sha256.New()
	}
	return m
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.next.Write(p)
	m.n += int64(n)
	if m.hash != nil {
		m.hash.Write(p[:n])
	}
	return n, err
}

func (m *meter) digest() string {
	if m.hash == nil {
		return ""
	}
	return fmt.Sprintf("sha256:%x", m.hash.Sum(nil))
}

// diff writes a layer to out, as the Compare method of containerd's differs does.
func diff(out io.Writer, gzipped, hashing bool, write func(io.Writer) error) (report, error) {
	blob := newMeter(out, hashing)
	kind := compression.Uncompressed
	if gzipped {
		kind = compression.Gzip
	}
	compressed, err := compression.CompressStream(blob, kind)
	if err != nil {
		return report{}, err
	}
	// An uncompressed blob has one digest, and containerd computes it once.
	tar := newMeter(compressed, hashing && gzipped)
	if err := write(tar); err != nil {
		return report{}, err
	}
	if err := compressed.Close(); err != nil {
		return report{}, err
	}
	r := report{Bytes: tar.n, Written: blob.n, DiffID: tar.digest(), Digest: blob.digest()}
	if !gzipped {
		r.DiffID = r.Digest
	}
	return r, nil
}

// overlayChanges is the writeDiff of containerd's EROFS differ, which reads an
// overlay upper directory without walking what lies below.
func overlayChanges(base, upper string) func(io.Writer) error {
	return func(w io.Writer) error {
		cw := archive.NewChangeWriter(w, upper)
		if err := fs.DiffDirChanges(context.Background(), base, upper, fs.DiffSourceOverlayFS, cw.HandleChange); err != nil {
			return err
		}
		return cw.Close()
	}
}

func apply(dir string, in io.Reader, opts ...archive.ApplyOpt) (report, error) {
	stream, err := compression.DecompressStream(in)
	if err != nil {
		return report{}, err
	}
	defer stream.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return report{}, err
	}
	n, err := archive.Apply(context.Background(), dir, stream, opts...)
	return report{Bytes: n}, err
}

var errUsage = errors.New("usage: reference [-gzip] [-digest] [-o FILE] diff-overlay|diff-walk BASE UPPER, " +
	"or apply DIR, or apply-overlay DIR [PARENT...]")

func run(out io.Writer, gzipped, hashing bool, args []string) (report, error) {
	if len(args) < 2 {
		return report{}, errUsage
	}
	verb, args := args[0], args[1:]
	switch {
	case verb == "diff-overlay" && len(args) == 2:
		base := args[0]
		if base == "" {
			empty, err := os.MkdirTemp("", "reference-base-")
			if err != nil {
				return report{}, err
			}
			defer os.Remove(empty)
			base = empty
		}
		return diff(out, gzipped, hashing, overlayChanges(base, args[1]))
	case verb == "diff-walk" && len(args) == 2:
		return diff(out, gzipped, hashing, func(w io.Writer) error {
			return archive.WriteDiff(context.Background(), w, args[0], args[1])
		})
	case verb == "apply" && len(args) == 1:
		return apply(args[0], os.Stdin)
	case verb == "apply-overlay":
		return apply(args[0], os.Stdin,
			archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(args[1:]))
	}
	return report{}, errUsage
}

func main() {
	gzipped := flag.Bool("gzip", false, "compress the blob with gzip, at containerd's level")
	hashing := flag.Bool("digest", false, "compute the digests that containerd computes")
	output := flag.String("o", "", "write the blob to this file instead of standard output")
	flag.Parse()

	begin := time.Now()
	out := os.Stdout
	if *output != "" {
		f, err := os.Create(*output)
		if err != nil {
			fail(err)
		}
		out = f
	}
	r, err := run(out, *gzipped, *hashing, flag.Args())
	if err != nil {
		fail(err)
	}
	if err := out.Close(); err != nil {
		fail(err)
	}
	r.Operation, r.Seconds = flag.Arg(0), time.Since(begin).Seconds()
	r.CPU, r.Peak = usage()
	json.NewEncoder(os.Stderr).Encode(r)
}

// usage is the CPU time and the peak resident memory of this process.
func usage() (seconds float64, peak int64) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		seconds = time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
	}
	// Not ru_maxrss, which counts what the parent had resident when it forked.
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		if _, rest, ok := bytes.Cut(status, []byte("VmHWM:")); ok {
			var kib int64
			fmt.Fscan(bytes.NewReader(rest), &kib)
			peak = kib * 1024
		}
	}
	return seconds, peak
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "reference:", err)
	os.Exit(1)
}
