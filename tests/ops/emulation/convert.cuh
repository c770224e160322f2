// Stands in for cuda/convert.cuh, the one file with assembly.
#pragma once

struct bf16 { unsigned short bits; };

inline float to_float(float value) { return value; }
inline float to_float(bf16 value) { return __uint_as_float((unsigned)value.bits << 16); }

inline void from_float(float value, float& to) { to = value; }

inline void from_float(float value, bf16& to) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    to.bits = std::isnan(value) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
