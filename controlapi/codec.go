package controlapi

import (
	"errors"
	"fmt"
	"regexp"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxDepth bounds how deep a request message nests; the schema's deepest has 3
// levels.
const maxDepth = 8

// binaryCodec and jsonCodec decode requests strictly. Connect's own codecs take
// members that the schema does not know, so that a misspelt or newer option
// would be ignored without a word.
//
// A message that does not decode is handed on as an empty one that carries the
// error (see decodeError), because Connect would answer a decoding error by
// itself: an operation of an authenticated principal without a record.
type (
	binaryCodec struct{}
	jsonCodec   struct{ name string }
)

func (binaryCodec) Name() string { return "proto" }
func (c jsonCodec) Name() string { return c.name }

func (binaryCodec) Marshal(v any) ([]byte, error) {
	m, err := messageOf(v)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(m)
}

func (jsonCodec) Marshal(v any) ([]byte, error) {
	m, err := messageOf(v)
	if err != nil {
		return nil, err
	}
	return protojson.Marshal(m)
}

func (binaryCodec) Unmarshal(data []byte, v any) error {
	m, err := messageOf(v)
	if err != nil {
		return err
	}
	if (proto.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(data, m) != nil {
		carryError(m, errors.New("not the protobuf encoding of the message"))
	} else if err := checkKnown(m.ProtoReflect()); err != nil {
		carryError(m, err)
	}
	return nil
}

func (jsonCodec) Unmarshal(data []byte, v any) error {
	m, err := messageOf(v)
	if err != nil {
		return err
	}
	if err := (protojson.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(data, m); err != nil {
		carryError(m, describeJSON(err))
	}
	return nil
}

// jsonFault finds, in the JSON library's text, what can be told without quoting
// values: they may be payloads.
var jsonFault = regexp.MustCompile(`\(line \d+:\d+\)(: (unknown|duplicate) field "[A-Za-z0-9_]{1,64}")?`)

func describeJSON(err error) error {
	if found := jsonFault.FindString(err.Error()); found != "" {
		return fmt.Errorf("not the JSON of the message: %s", found)
	}
	return errors.New("not the JSON of the message")
}

func messageOf(v any) (proto.Message, error) {
	if m, ok := v.(proto.Message); ok {
		return m, nil
	}
	return nil, fmt.Errorf("message of type %T is none of the schema", v)
}

// checkKnown refuses members that the schema does not have.
func checkKnown(m protoreflect.Message) error {
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		number, _, _ := protowire.ConsumeTag(unknown)
		return fmt.Errorf("%s has no field %d", m.Descriptor().Name(), number)
	}
	var err error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() == nil || f.IsMap() {
			return true
		}
		if !f.IsList() {
			err = checkKnown(v.Message())
			return err == nil
		}
		for i := range v.List().Len() {
			if err = checkKnown(v.List().Get(i).Message()); err != nil {
				return false
			}
		}
		return true
	})
	return err
}

// errorField is the number under which a message carries its decoding error. A
// client cannot forge one: unknown fields of what it sends are errors.
const errorField protowire.Number = 19_000

func carryError(m proto.Message, err error) {
	proto.Reset(m)
	field := protowire.AppendTag(nil, errorField, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendString(field, err.Error()))
}

// decodeError returns why a request message did not decode.
func decodeError(v any) error {
	m, err := messageOf(v)
	if err != nil {
		return err
	}
	unknown := m.ProtoReflect().GetUnknown()
	if len(unknown) == 0 {
		return nil
	}
	_, _, n := protowire.ConsumeTag(unknown)
	text, _ := protowire.ConsumeString(unknown[n:])
	return errors.New(text)
}
