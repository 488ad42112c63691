#include "loci/data/poses/rotation.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace loci {
namespace {

double norm_of(const Quaternion& q) {
  return std::sqrt(q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z);
}

Matrix3 cofactors(const Matrix3& m) {
  Matrix3 c = {};
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      const auto at = [&](int di, int dj) { return m[(i + di) % 3 * 3 + (j + dj) % 3]; };
      c[i * 3 + j] = at(1, 1) * at(2, 2) - at(1, 2) * at(2, 1);  // cyclic indices bring the sign
    }
  }
  return c;
}

}  // namespace

Quaternion canonical(const Quaternion& q) {
  const double norm = norm_of(q);
  if (norm == 0) return {};
  double sign = 1;
  for (const double number : {q.w, q.x, q.y, q.z}) {
    if (number == 0) continue;
    sign = number < 0 ? -1 : 1;
    break;
  }
  const double scale = sign / norm;
  return {q.w * scale, q.x * scale, q.y * scale, q.z * scale};
}

double determinant(const Matrix3& m) {
  const Matrix3 c = cofactors(m);
  return m[0] * c[0] + m[1] * c[1] + m[2] * c[2];
}

double orthogonality_error(const Matrix3& m) {
  double error = 0;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      double product = i == j ? -1 : 0;
      for (int k = 0; k < 3; ++k) product += m[k * 3 + i] * m[k * 3 + j];
      error = std::max(error, std::abs(product));
    }
  }
  return error;
}

// Newton's iteration for the orthogonal factor of the polar decomposition, X <- (X + X^-T) / 2 (Higham 1986). That
// factor is U V^T of the singular value decomposition, and a rotation because the determinant keeps its sign.
Matrix3 nearest_rotation(const Matrix3& m) {
  Matrix3 x = m;
  for (int step = 0; step < 100; ++step) {
    const double d = determinant(x);
    const Matrix3 c = cofactors(x);
    double change = 0;
    for (int i = 0; i < 9; ++i) {
      const double next = 0.5 * (x[i] + c[i] / d);
      change = std::max(change, std::abs(next - x[i]));
      x[i] = next;
    }
    if (change < 1e-15) break;
  }
  return x;
}

Matrix3 matrix_of(const Quaternion& q) {
  const auto [w, x, y, z] = canonical(q);
  return {1 - 2 * (y * y + z * z), 2 * (x * y - z * w),     2 * (x * z + y * w),
          2 * (x * y + z * w),     1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
          2 * (x * z - y * w),     2 * (y * z + x * w),     1 - 2 * (x * x + y * y)};
}

// Four times each number's square stands on the diagonal; dividing by the largest keeps the digits (Shepperd 1978).
Quaternion quaternion_of(const Matrix3& r) {
  const double w = 1 + r[0] + r[4] + r[8], x = 1 + r[0] - r[4] - r[8];
  const double y = 1 - r[0] + r[4] - r[8], z = 1 - r[0] - r[4] + r[8];
  const double largest = std::max({w, x, y, z});
  if (largest == w) return canonical({w, r[7] - r[5], r[2] - r[6], r[3] - r[1]});
  if (largest == x) return canonical({r[7] - r[5], x, r[1] + r[3], r[2] + r[6]});
  if (largest == y) return canonical({r[2] - r[6], r[1] + r[3], y, r[5] + r[7]});
  return canonical({r[3] - r[1], r[2] + r[6], r[5] + r[7], z});
}

// atan2 is acos(w) with all digits near no rotation as well.
Vector3 log_of(const Quaternion& q) {
  const auto [w, x, y, z] = canonical(q);
  const double sine = std::sqrt(x * x + y * y + z * z);
  if (sine == 0) return {0, 0, 0};
  const double scale = std::atan2(sine, w) / sine;
  return {x * scale, y * scale, z * scale};
}

Quaternion exp_of(const Vector3& log) {
  const double angle = distance_between(log, {0, 0, 0});
  if (angle == 0) return {};
  const double scale = std::sin(angle) / angle;
  return canonical({std::cos(angle), log[0] * scale, log[1] * scale, log[2] * scale});
}

double degrees_between(const Quaternion& a, const Quaternion& b) {
  // The rotation from one to the other; its real part is the inner product.
  const double w = a.w * b.w + a.x * b.x + a.y * b.y + a.z * b.z;
  const double x = a.w * b.x - a.x * b.w - a.y * b.z + a.z * b.y;
  const double y = a.w * b.y - a.y * b.w - a.z * b.x + a.x * b.z;
  const double z = a.w * b.z - a.z * b.w - a.x * b.y + a.y * b.x;
  return 2 * std::atan2(std::sqrt(x * x + y * y + z * z), std::abs(w)) * 180 / std::numbers::pi;
}

double distance_between(const Vector3& a, const Vector3& b) {
  const double x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
  return std::sqrt(x * x + y * y + z * z);
}

}  // namespace loci
