// The numbers of the Toom-Cook scheme F(M, R), of which Winograd's F(2, 3) is the best known: M neighbouring sums over
// R neighbouring inputs, out_i = sum_j g_j d_(i+j), from M + R - 1 multiplications instead of M R.
//
//   out_i = sum_p a_p^i (weights_p . g) (inputs_p . d)      over the first M + R - 1 points a_p
//
// where infinity^i is 1 for i = M - 1 and 0 otherwise. It is the transposed product of two polynomials, found from its
// values at the points. With N the product of all x - a_p, inputs_p are the coefficients of N / (x - a_p), and
// weights_p are a_p^j / N'(a_p); inputs_infinity are the coefficients of N, and weights_infinity picks the last g.
// Factors may move from inputs_p to weights_p: here the first of inputs_p is positive.
#pragma once

namespace {

constexpr int kMostPoints = 7;
constexpr double kPoints[kMostPoints] = {0, 0, 1, -1, 2, -0.5, 0.5};  // the first stands for infinity

struct Toom {
  double inputs[kMostPoints][kMostPoints], weights[kMostPoints][kMostPoints], outputs[kMostPoints][kMostPoints];
};

// inputs (points, points), weights (points, r), outputs (m, points)
constexpr Toom toom(int m, int r) {
  Toom t{};
  const int points = m + r - 1;
  for (int p = 0; p < points; p++) {
    double derivative = 1.0;
    t.inputs[p][0] = 1.0;
    for (int q = 1, degree = 1; q < points; q++) {
      if (q == p) continue;
      for (int k = degree++; k > 0; k--) t.inputs[p][k] = t.inputs[p][k - 1] - kPoints[q] * t.inputs[p][k];
      t.inputs[p][0] *= -kPoints[q];
      if (p > 0) derivative *= kPoints[p] - kPoints[q];
    }
    int first = 0;
    while (t.inputs[p][first] == 0.0) first++;
    const double sign = t.inputs[p][first] < 0.0 ? -1.0 : 1.0;
    for (int k = 0; k < points; k++) t.inputs[p][k] *= sign;
    double power = 1.0;
    for (int j = 0; j < r; j++, power *= kPoints[p]) t.weights[p][j] = p > 0 ? sign * power / derivative : 0.0;
    if (p == 0) t.weights[p][r - 1] = sign;
    power = 1.0;
    for (int i = 0; i < m; i++, power *= kPoints[p]) t.outputs[i][p] = p > 0 ? power : 0.0;
  }
  t.outputs[m - 1][0] = 1.0;
  return t;
}

}  // namespace
