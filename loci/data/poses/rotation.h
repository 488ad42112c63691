// Rotations in three dimensions as unit quaternions, and camera poses.
#pragma once

#include <array>

namespace loci {

using Vector3 = std::array<double, 3>;
using Matrix3 = std::array<double, 9>;  // rows one after another

struct Quaternion {
  double w = 1;
  double x = 0;
  double y = 0;
  double z = 0;
  bool operator==(const Quaternion&) const = default;
};

// Of a camera: it turns the camera's coordinates (x right, y down, z forward) into the world's.
struct Pose {
  Vector3 position = {};  // metres
  Quaternion rotation;    // canonical
};

// The unit quaternion of the same rotation with w >= 0; where w = 0, the first other number that is not 0 is positive.
// The zero quaternion becomes 1.
Quaternion canonical(const Quaternion& q);

double determinant(const Matrix3& m);
// The largest entry of |M^T M - 1|: 0 for a rotation or a reflection.
double orthogonality_error(const Matrix3& m);
// The rotation R with the smallest Frobenius norm |M - R|, as from a singular value decomposition. M must have a
// determinant above 0.
Matrix3 nearest_rotation(const Matrix3& m);

Matrix3 matrix_of(const Quaternion& q);
Quaternion quaternion_of(const Matrix3& rotation);  // canonical

// v / |v| acos(w) of the canonical quaternion (w, v): half the angle along the axis, 0 for no rotation.
Vector3 log_of(const Quaternion& q);
Quaternion exp_of(const Vector3& log);  // canonical

// 2 acos |<a, b>|, 0 .. 180, of any two quaternions but zero.
double degrees_between(const Quaternion& a, const Quaternion& b);
double distance_between(const Vector3& a, const Vector3& b);

}  // namespace loci
