// Command goguest shows what differs from run to run outside the sandbox.
package main

import (
	crand "crypto/rand"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand"
	"os"
	"sync"
	"time"
)

func main() {
	start := time.Now()
	fmt.Println("arguments", os.Args, os.Environ(), "year", start.UTC().Year(), start.UnixNano())
	time.Sleep(3 * time.Second)
	fmt.Println("slept", time.Since(start))

	m := map[int]string{}
	for i := range 50 {
		m[i] = fmt.Sprint(i)
	}
	fmt.Println("map", m)
	for k := range m {
		fmt.Print(k, " ")
	}
	fmt.Println()

	var mu sync.Mutex
	var wg sync.WaitGroup
	var order []int
	for i := range 20 {
		wg.Go(func() {
			time.Sleep(time.Duration(rand.Intn(5)) * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i)
		})
	}
	wg.Wait()
	fmt.Println("goroutines", order)

	a, b := make(chan int, 100), make(chan int, 100)
	for i := range 100 {
		a <- i
		b <- i
	}
	picked := 0
	for range 100 {
		select {
		case <-a:
			picked++
		case <-b:
		}
	}
	fmt.Println("select", picked)

	secret := make([]byte, 16)
	crand.Read(secret)
	fmt.Printf("random %x %d %d\n", secret, rand.Int63(), maphash.String(maphash.MakeSeed(), "x"))

	select {
	case <-time.After(2 * time.Hour):
		fmt.Println("timer", time.Since(start).Round(time.Minute))
	case <-time.After(3 * time.Hour):
		fmt.Println("the later timer was first")
	}
	input, err := io.ReadAll(os.Stdin)
	fmt.Println("read", len(input), "bytes", err)
	_, err = os.Open("/etc/passwd")
	fmt.Println("no file:", err)
	_, err = os.CreateTemp("", "")
	fmt.Println("no file:", err)
	fmt.Fprintln(os.Stderr, "diagnostics")
}
