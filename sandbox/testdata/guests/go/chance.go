package main

import (
	crand "crypto/rand"
	"fmt"
	"hash/maphash"
	"math"
	"math/rand"
	randv2 "math/rand/v2"
	"os"
	"sync"
	"time"
)

func clock() error {
	start := time.Now()
	for range 5 {
		fmt.Println(time.Now().UTC(), time.Since(start))
	}
	for i := range 3 {
		<-time.After(time.Duration(i) * time.Hour)
		fmt.Println(time.Since(start))
	}
	return nil
}

func sleep() error {
	start := time.Now()
	time.Sleep(3 * time.Second)
	fmt.Println("slept", time.Since(start))
	tick := time.NewTicker(time.Minute)
	for range 3 {
		fmt.Println("tick", (<-tick.C).Sub(start))
	}
	return nil
}

func random() error {
	b := make([]byte, 16)
	if _, err := crand.Read(b); err != nil {
		return err
	}
	fmt.Printf("%x %d %d\n", b, rand.Int63(), randv2.Uint64())
	fmt.Println(maphash.String(maphash.MakeSeed(), "x"), rand.Perm(10), math.NaN())
	return nil
}

func maps() error {
	m, set := map[string]int{}, map[float64]bool{math.NaN(): true, math.NaN(): false}
	for i := range 100 {
		m[fmt.Sprint("key", i)] = i
	}
	for k, v := range m {
		fmt.Print(k, "=", v, " ")
	}
	for range set {
		fmt.Print(len(set), " ")
	}
	fmt.Println()
	return nil
}

// goroutines shows the order in which goroutines run, selects choose, and locks
// are given.
func goroutines() error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var order []int
	for i := range 50 {
		wg.Go(func() {
			time.Sleep(time.Duration(rand.Intn(5)) * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i)
		})
	}
	wg.Wait()
	a, b, picked := make(chan int, 100), make(chan int, 100), 0
	for i := range 100 {
		a <- i
		b <- i
	}
	for range 100 {
		select {
		case <-a:
			picked++
		case <-b:
		}
	}
	fmt.Fprintln(os.Stdout, order, picked)
	return nil
}
