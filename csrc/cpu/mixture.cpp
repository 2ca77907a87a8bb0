// Which family of mixtures draws.
#include "mixture.h"

namespace pixelfast {

std::unique_ptr<MixtureDraw> make_mixture(Distribution head, const MixtureShape& shape, double temperature) {
  switch (head) {
    case Distribution::mixture_of_logistics: return mixture_of_logistics(shape, temperature);
    case Distribution::mixture_of_gaussians: return mixture_of_gaussians(shape, temperature);
    default: return nullptr;
  }
}

}  // namespace pixelfast
